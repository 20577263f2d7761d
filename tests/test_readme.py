"""Every command and every Python block of the READMEs and CONTRIBUTING.md runs: here, small, trainings first; or in a
test that is named. ``configs/README.md`` has a test of its own, ``tests/lightning_modules/runs/test_page.py``."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lightning_modules import ClipFinetune
from lightning_modules.cli.main import main
from tests.eval import releases
from tests.eval.benchmarks.test_classification import WNIDS
from tests.eval.benchmarks.test_classification import write_image as photograph
from tests.eval.fgovd_release import write_fgovd
from tests.helpers.tiny import make_sample, picture, write_shards
from tests.helpers.tiny_run import fit

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--data.scenes.train 16 --data.scenes.dev 8 --data.scenes.held_out 8 "
    "--data.batch_size 16 --data.num_workers 0 --trainer.max_epochs 1 "
    "--trainer.accumulate_grad_batches 1 --trainer.enable_progress_bar false --diagnostics.every_n_steps 0 "
    "--images.every_n_steps 0 --trainer.accelerator cpu"
)
START = "--model.init_args.pretrained openai/clip-vit-base-patch16 --model.init_args.encoder.image_size 16"
MEASURE = "--device cpu --batch_size 8 --bootstrap 10"
# What is added to a command so that it is done in a second. Of the paper's start a tiny model has the name.
ADDED = {
    "lightning fit --config configs/beta_bce.yaml": SMALL,
    "lightning fit --config configs/beta_bce.yaml --config my.yaml --model.beta 0.25 --name quarter": SMALL,
    "lightning fit --config configs/beta_bce.yaml --name mine --data.shards 'shards/train-*.tar' "
    "--data.val_shards shards/val": SMALL,
    "lightning fit --config configs/beta_bce.yaml --print_config": "",
    "lightning doctor": "",
    "lightning fit --config configs/beta_ce.yaml --config configs/recipes/vitb16_sharegpt4v.yaml "
    "--data.shards 'shards/train-*.tar' --data.val_shards shards/val": f"{SMALL} {START}",
    "lightning fit --config configs/clip.yaml --data.pairs captions.csv --data.pair_reading.folder photos "
    "--data.pair_reading.val_share 0.25 --name pairs": f"{SMALL} --data.batch_size 4 "
    "--data.pair_reading.extractor rules",
    "lightning fit --config configs/beta_bce.yaml --name logged --trainer.logger+=WandbLogger "
    "--trainer.logger+=CSVLogger --trainer.logger+=TensorBoardLogger": SMALL,
    "lightning export runs/beta_bce/checkpoints/best.ckpt beta-clip": "",
    "lightning export runs/beta_bce/checkpoints/best.ckpt beta-onnx --format onnx": "",
    "lightning export runs/beta_bce/checkpoints/best.ckpt beta-hub --push OWNER/NAME --license mit --dry_run": "",
    "lightning export runs/vitb16_sharegpt4v/checkpoints/best.ckpt my-clip": "",
    "lightning export runs/vitb16_sharegpt4v/checkpoints/best.ckpt my-open-clip --format open_clip": "",
    "lightning fit --config configs/clip.yaml --config configs/recipes/lora.yaml": SMALL,
    "lightning fit --config configs/clip.yaml --config configs/recipes/lit.yaml": SMALL,
    "lightning export runs/lora/checkpoints/best.ckpt my-lora": "",
    "lightning export runs/lit/checkpoints/best.ckpt my-half --interpolate 0.5": "",
    "lightning evaluate --model runs/lit/checkpoints/best.ckpt --interpolate 0,0.5,1 --benchmark urban1k --root DATA "
    "--out line": MEASURE,
    "lightning fit --config configs/beta_ce.yaml --config configs/recipes/ddp.yaml": f"{SMALL} --trainer.strategy auto",
    "lightning fit --config configs/beta_ce.yaml --config configs/recipes/fsdp2.yaml": "--print_config",
    "lightning evaluate --model runs/beta_ce/checkpoints/best.ckpt --benchmark urban1k,fgovd --root DATA "
    "--out results": MEASURE,
    "lightning evaluate --model runs/beta_ce/checkpoints/best.ckpt --benchmark urban1k --root DATA --rerank 50 "
    "--out reranked": MEASURE,
    "lightning evaluate --model openai/clip-vit-base-patch16 --model my-clip --benchmark flickr30k,imagenet "
    "--root DATA --out both": MEASURE,
    "lightning predict --model my-clip --shards shards/ --kinds image,caption,sentence "
    "--out embeddings": "--device cpu",
    'lightning explain --model runs/beta_bce/checkpoints/best.ckpt --image cat.jpg --text "a cat" '
    '--text "its tail" --out cat.html': "",
    "lightning report runs/beta_ce runs/beta_bce --out report.html": "",
    "lightning prepare sharegpt4v --images data --annotations share-captioner_coco_lcs_sam_1246k_1107.json "
    "--out shards/sharegpt4v --processes 16": "--processes 1 --extractor rules",
    "lightning inspect shards/sharegpt4v --html page.html": "",
}
ELSEWHERE = {  # the start of a command: the file with its test, and what stands there
    "make demo": ("tests/lightning_modules/test_cli.py", "configs/beta_bce.yaml"),
    "make test-slurm": ("tests/slurm", "sbatch"),
    "make test-long": ("Makefile", "-m 'long"),
    "make test-slow": ("Makefile", "-m 'slow"),
    "make test": ("Makefile", "pytest"),
    "make gpu": ("tests/gpu/test_gpu.py", "run.main("),
    "make lint": (".ci/run", "make lint"),
    "make format": ("Makefile", "ruff format ."),
    "make bench": ("tests/bench/run.py", "def main"),
    "make coverage": ("Makefile", "--cov"),
    "make mutation": ("tests/mutation/test_mutants.py", "mutant("),
    "make study": ("tests/test_study.py", "run.main()"),
    ".ci/run": (".ci/run", "make test"),
    "source .venv/bin/activate": ("Makefile", "source .venv/bin/activate"),
    "tensorboard --logdir runs": ("tests/lightning_modules/test_tensorboard.py", "--logdir"),
    "torchrun": ("tests/lightning_modules", "torchrun"),
    "sbatch": ("tests/slurm", "sbatch"),
    **{
        f"lightning {start}": ("tests/test_own_images.py", "commands(section)")
        for start in (
            "prepare table --images photos",
            "inspect shards/own",
            "fit --config configs/clip.yaml --config configs/recipes/own_images.yaml",
            "evaluate --model openai/clip-vit-base-patch16 --model runs/own_images",
            "evaluate --model runs/own_images",
            "export runs/own_images",
        )
    },
    "python -m nltk.downloader": ("datamodules/granularity/nltk_data.py", "nltk.downloader"),
}


def commands(text: str) -> list[str]:
    """Commands of the shell blocks, one each, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [one for line in lines if (one := re.sub(r"\s+", " ", re.sub(r"(^|\s)#.*", "", line)).strip())]


PAGES = (
    *("README.md", "CONTRIBUTING.md", "configs/recipes/README.md", "configs/study/README.md"),
    *(f"{package}/README.md" for package in ("lightning_modules", "losses", "datamodules", "eval")),
)
PARSED = ("lightning_modules/README.md", "datamodules/README.md")  # their blocks cut phrases out of captions
FOUND = list(dict.fromkeys(one for name in PAGES for one in commands((ROOT / name).read_text("utf-8"))))
ORDER = (
    "fit",
    "doctor",
    "prepare",
    "inspect",
    "export",
    "evaluate",
    "predict",
    "explain",
    "report",
)  # what comes first


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A folder with what the commands name: shards, data sets, a start, a picture."""
    folder = tmp_path_factory.mktemp("stage")
    for number, shard in enumerate(write_shards(folder / "w", 16, 2)):
        (folder / "shards" / "val").mkdir(parents=True, exist_ok=True)
        shutil.copy(shard, folder / "shards" / f"train-{number}.tar")
        shutil.copy(shard, folder / "shards" / "val" / f"{number}.tar")
    (folder / "my.yaml").write_text(yaml.safe_dump({"data": {"val_batch_size": 4}}))
    (folder / "cat.jpg").write_bytes(picture(1))
    (folder / "photos").mkdir()
    rows = ["image,caption"]
    for number in range(1, 17):
        (folder / "photos" / f"{number}.jpg").write_bytes(picture(number))
        rows.append(f'{number}.jpg,"{make_sample(number).caption}"')
    (folder / "captions.csv").write_text("\n".join(rows))
    fit(folder / "start", epochs=1, method=ClipFinetune)
    start = folder / "openai" / "clip-vit-base-patch16"
    assert main(["export", str(folder / "start" / "checkpoints" / "last.ckpt"), str(start)]) == 0
    data = folder / "DATA"
    releases.write_urban1k(data)
    write_fgovd(data)
    releases.write_flickr(data)
    for place in range(1000):
        photograph(data / "imagenet" / "val" / WNIDS[place] / "x", place)
    releases.write_sharegpt4v(folder / "data", 1004)
    rows = (folder / "data" / "share-captioner_coco_lcs_sam_1246k_1107.json").read_text()
    whole = json.loads(rows[: rows.rindex('{"id"')].rstrip(", ") + "]")
    (folder / "share-captioner_coco_lcs_sam_1246k_1107.json").write_text(json.dumps(whole))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three minutes on two cores, ten on a busy machine
def test_all_of_them_in_order(stage, monkeypatch, capsys):
    monkeypatch.chdir(stage)
    monkeypatch.setenv("GRAINCLIP_CACHE", str(stage / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("sys.argv", ["lightning"])
    monkeypatch.setattr("eval.benchmarks.imagenet.imagenet_templates", lambda: ("a photo of a {}.",))
    room = SimpleNamespace(total=2**40, used=0, free=2**40)  # whatever this machine has left: `doctor` would tell
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)
    ours = [one for one in FOUND if one in ADDED]
    for one in sorted(ours, key=lambda one: ORDER.index(one.split()[1])):
        given = shlex.split(f"{one} {ADDED[one]}")[1:]
        if "--print_config" in given:
            capsys.readouterr()
            with pytest.raises(SystemExit, match=r"^0$"):
                main(given)
            assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"]
        else:
            print("command:", one)  # the last of them is seen where the time is over
            status = main(given)
            assert status == 0, f"{one}: status {status}\n{capsys.readouterr().out[-2000:]}"
    for made in (
        "results/results.json",
        "both",
        "cat.html",
        "report.html",
        "page.html",
        "my-clip",
        "line/interpolation.md",
    ):
        assert (stage / made).exists(), made
    assert any((stage / "embeddings").iterdir())


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, stage, tmp_path, monkeypatch, request):
    if page in PARSED:
        request.getfixturevalue("nltk_data")
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "photos", "captions.csv"):
        (tmp_path / name).symlink_to(stage / name)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL):
        if "own-clip" not in block:  # tests/test_own_images.py runs it
            exec(compile(block, page, "exec"), {"__name__": page})


def test_each_is_known():
    unknown = [one for one in FOUND if one not in ADDED and not any(one.startswith(start) for start in ELSEWHERE)]
    assert not unknown
    gone = [one for one in ADDED if one not in FOUND]
    assert not gone
    assert len(FOUND) > 20


@pytest.mark.parametrize(("file", "words"), ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_what_is_run_elsewhere(file, words):
    place = ROOT / file
    files = [place] if place.is_file() else place.rglob("*.py")
    assert any(words in one.read_text("utf-8") for one in files)


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {one.split()[1] for one in FOUND if one.startswith("make ")} <= targets


def test_commands_are_read():
    text = "x\n```bash\n# no\nlightning a \\\n    --b c    # why\n\nmake d\n```\n```yaml\ne: f\n```\n"
    assert commands(text) == ["lightning a --b c", "make d"]
