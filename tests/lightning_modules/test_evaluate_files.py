"""Files that the command writes, for one model and for several."""

from __future__ import annotations

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.interfaces import EvalContext
from eval.results.per_item import parquet
from eval.results.tables import latex
from lightning_modules.cli.evaluate import load_model, measure
from lightning_modules.cli.main import main
from lightning_modules.networks import DualEncoder
from tests.eval.fgovd_release import write_fgovd
from tests.eval.releases import write_flickr, write_val2017
from tests.helpers.tiny_run import TINY


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp(f"model{seed}"))
        DualEncoder(TINY).save_pretrained(folders[-1])
    return folders


@pytest.fixture
def root(tmp_path):
    write_val2017(tmp_path / "data")
    write_fgovd(tmp_path / "data")
    write_flickr(tmp_path / "data")
    return tmp_path / "data"


def evaluate(models, root, benchmark, *more):
    named = [word for model in models for word in ("--model", str(model))]
    words = ["--benchmark", benchmark, "--root", str(root), *map(str, more)]
    return main(["evaluate", *named, *words, "--device", "cpu"])


def test_results_of_others_are_not_overwritten(models, root, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(models[:1], root, "coco_val2017,fgovd", "--out", out, "--bootstrap", 0) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("run.json", "config.yaml"):
        (run / name).touch()
    for which, benchmark, place, says in (
        (models[1], "coco_val2017", out, "results.json holds results of another model: choose another --out"),
        (models[0], "coco_val2017", out, "results.json holds results of fgovd, which are not asked for"),
        (models[0], "fgovd", run, f"--out must not be the folder of a training run, got {run}"),
        (models[0], "fgovd", run / "results.json", f"--out must not be the folder of a training run, got {run}"),
        (models[0], "fgovd", run / "checkpoints", "--out must not be the folder of a training run"),
    ):
        with pytest.raises(SystemExit):
            evaluate([which], root, benchmark, "--out", place)
        assert says in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("single", [False, True])
def test_earlier_results_stay_until_all_are_measured_anew(models, root, tmp_path, single, capsys):
    """A benchmark that fails leaves them, and the new ones beside them."""
    out = tmp_path / "out" / "r.json" if single else tmp_path / "out"
    arguments = (models[:1], root, "coco_val2017,fgovd", "--out", out, "--bootstrap", 0)
    assert evaluate(*arguments) == 0
    before = contents(tmp_path / "out")
    annotations = root / "benchmarks" / "1_attributes.json"
    annotations.rename(tmp_path / "away.json")
    with pytest.raises(SystemExit):
        evaluate(*arguments)
    after = contents(tmp_path / "out")
    assert before.items() <= after.items()
    stem, endings = ("r", ["json"]) if single else ("results", ["json", "md", "tex"])
    assert sorted(after.keys() - before.keys()) == [f"{stem}.partial.{ending}" for ending in endings]
    partial = json.loads(after[f"{stem}.partial.json"])
    assert list(partial["settings"]["benchmarks"]) == ["coco_val2017"]
    whole = json.loads(before[f"{stem}.json"])["numbers"]
    assert partial["numbers"] == {name: value for name, value in whole.items() if name.startswith("coco_val2017/")}
    (tmp_path / "away.json").rename(annotations)
    assert evaluate(*arguments) == 0
    assert contents(tmp_path / "out") == before


def test_single_results_stay_with_the_numbers(models, root, tmp_path):
    pytest.importorskip("pyarrow")
    arguments = (models[:1], root, "coco_val2017,fgovd", "--out", tmp_path / "out", "--bootstrap", 0, "--items")
    assert evaluate(*arguments) == 0
    for file in (tmp_path / "out" / "items").iterdir():
        file.write_bytes(b"earlier")
    before = contents(tmp_path / "out" / "items")
    annotations = root / "benchmarks" / "1_attributes.json"
    annotations.rename(tmp_path / "away.json")
    with pytest.raises(SystemExit):
        evaluate(*arguments)
    assert contents(tmp_path / "out" / "items") == before
    (tmp_path / "away.json").rename(annotations)
    assert evaluate(*arguments) == 0
    after = contents(tmp_path / "out" / "items")
    assert after.keys() == before.keys()
    assert b"earlier" not in after.values()


def test_results_of_other_settings_are_not_overwritten(models, root, tmp_path, capsys):
    out = tmp_path / "out"
    first = ("--out", out, "--fit", "squash", "--bootstrap", 0)
    assert evaluate(models[:1], root, "coco_val2017", *first) == 0
    settings = json.loads((out / "results.json").read_text())["settings"]
    names = ("fit", "captions", "rerank", "skip_missing")
    assert [settings[name] for name in names] == ["squash", None, None, False]
    before = contents(out)
    for more, says in (
        (("--out", out), "of --fit squash"),
        (("--out", out, "--fit", "longest"), "of --fit squash"),
        ((*first, "--captions", "first_line"), "without --captions"),
        ((*first, "--skip_missing"), "without --skip_missing"),
    ):
        with pytest.raises(SystemExit):
            evaluate(models[:1], root, "coco_val2017", *more)
        assert f"results.json holds results {says}: choose another --out" in capsys.readouterr().err
    assert contents(out) == before
    assert evaluate(models[:1], root, "coco_val2017", *first, "--batch_size", 2) == 0


def test_the_same_weights_on_another_device_are_the_same_model(models):
    model, words = load_model(str(models[0]), torch.device("cpu"))
    found = measure(model, words, [], EvalContext(models[0])).settings["model"]["sha256"]
    model.device = torch.device("cuda")
    assert measure(model, words, [], EvalContext(models[0])).settings["model"]["sha256"] == found
    other, words = load_model(str(models[1]), torch.device("cpu"))
    assert measure(other, words, [], EvalContext(models[1])).settings["model"]["sha256"] != found


@pytest.mark.parametrize("text", ['["a"]', "{", "mine\xff", '{"name": "package"}', '{"settings": {"model": "a"}}'])
def test_a_file_that_holds_no_results_is_left_alone(models, root, tmp_path, text, capsys, monkeypatch):
    monkeypatch.setattr("lightning_modules.cli.evaluate.load_model", lambda *_, **__: 1 / 0)  # said before the work
    file = tmp_path / "mine.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(SystemExit):
        evaluate(models[:1], root, "coco_val2017", "--out", file)
    told = f"--out must not replace a file that holds no results of `lightning evaluate`, got {file}"
    assert told in capsys.readouterr().err
    assert file.read_text(encoding="latin-1") == text


def test_finished_numbers_are_shown_where_later_work_fails(models, root, tmp_path, capsys, monkeypatch):
    (root / "benchmarks" / "1_attributes.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        evaluate(models, root, "coco_val2017,fgovd")
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out.startswith(models[0].name)
    assert "coco val2017 · text to image" in told.out
    assert models[1].name not in told.out
    assert "1_attributes" in told.err

    def interrupted(model, run):
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.benchmarks.fgovd.fgovd", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(models[:1], root, "coco_val2017,fgovd")
    assert "coco val2017 · text to image" in capsys.readouterr().out


def test_what_would_fail_later_is_refused_before_the_work(models, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_modules.cli.evaluate.load_model", lambda *_, **__: 1 / 0)
    for other, says in (
        ("scenes-bas", "scenes-bas is no file, no folder, no hub id"),
        (tmp_path / "none.ckpt", "none.ckpt: no such checkpoint"),
        (tmp_path, f"{tmp_path} holds no weights"),
    ):
        with pytest.raises(SystemExit):
            evaluate([models[0], other], root, "coco_val2017")
        assert says in capsys.readouterr().err
    for first, second, head in (
        ("retrieval:x/test.csv", "retrieval:y/test.csv", "retrieval:test"),
        ("oracle:x/test.csv", "oracle:test.json", "oracle:test (leaks)"),
        ("shards:a/val.tar", "shards:b/val", "shards:val"),
        ("himo:a/val.jsonl", "himo:b/val", "himo:val"),
        ("folder:a/val", "folder:val/", "folder:val"),
        ("fgovd:a/hard.json", "fgovd:b/hard.jsonl", "fgovd/hard"),
    ):
        with pytest.raises(SystemExit):
            evaluate(models[:1], root, f"{first},{second}")
        told = f"--benchmark {first} and {second} would both be called {head}: evaluate them apart"
        assert told in capsys.readouterr().err


def test_a_folder_of_all_kinds_of_files(models, root, tmp_path):
    out, board = tmp_path / "out", tmp_path / "board"
    assert evaluate(models[:1], root, "coco_val2017,fgovd", "--out", out, "--tensorboard", board) == 0
    assert sorted(file.name for file in out.iterdir()) == ["results.json", "results.md", "results.tex"]
    found = json.loads((out / "results.json").read_text())
    numbers, settings = found["numbers"], found["settings"]
    assert "| coco val2017 · text to image |" in (out / "results.md").read_text()
    assert r"coco val2017 $\cdot$ text to image &" in (out / "results.tex").read_text()
    low, high = settings["intervals"]["coco_val2017/text_to_image/R@1"]
    assert 0 <= low <= numbers["coco_val2017/text_to_image/R@1"] <= high <= 1
    assert len(settings["model"]["sha256"]) == 64
    retrieval = settings["benchmarks"]["coco_val2017"]
    assert {"protocol", "image", "caption", "context length", "images", "texts", "split sha256", "files"} <= set(
        retrieval
    )
    events = EventAccumulator(str(board)).Reload()
    scalar = events.Scalars("evaluate/fgovd/hard/accuracy")[-1]
    assert (scalar.value, scalar.step) == (pytest.approx(numbers["fgovd/hard/accuracy"]), 0)


def test_single_results_as_parquet(models, root, tmp_path):
    pytest.importorskip("pyarrow")
    assert evaluate(models[:1], root, "coco_val2017,fgovd", "--out", tmp_path / "out", "--items") == 0
    _, reader = parquet()
    files = sorted(file.name for file in (tmp_path / "out" / "items").iterdir())
    assert files[:2] == ["coco_val2017_image_to_text.parquet", "coco_val2017_text_to_image.parquet"]
    assert len(files) == 6
    table = reader.read_table(tmp_path / "out" / "items" / files[1]).to_pydict()
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())["numbers"]
    assert {"image", "text", "nearest", "rank", "tied", "R@1"} <= set(table)
    assert sum(table["R@1"]) / len(table["R@1"]) == numbers["coco_val2017/text_to_image/R@1"]
    assert [rank < 1 for rank in table["rank"]] == table["R@1"]


def test_without_pyarrow_it_says_so_before_the_work(models, root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SystemExit):
        evaluate(models[:1], root, "coco_val2017", "--out", tmp_path / "out", "--items")
    assert "pip install 'grainclip[parquet]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_models_are_compared_with_the_first(models, root, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate([*models, models[0]], root, "coco_val2017,flickr30k", "--out", out) == 0
    names = {file.name for file in out.iterdir()}
    folders = [models[0].name, models[1].name, f"{models[0].name}-2"]
    compared = [f"comparison_{other}_with_{folders[0]}" for other in folders[1:]]
    assert names == {*folders, *(f"{one}.{kind}" for one in compared for kind in ("json", "md"))}
    first, second = (json.loads((out / name / "results.json").read_text())["numbers"] for name in folders[:2])
    found = json.loads((out / f"{compared[0]}.json").read_text())["numbers"]
    name = "coco_val2017/text_to_image/R@5"
    assert found[f"{name}/size"] == pytest.approx(second[name] - first[name])
    assert found[f"{name}/low"] <= found[f"{name}/size"] <= found[f"{name}/high"]
    same = json.loads((out / f"{compared[1]}.json").read_text())["numbers"]
    assert (same[f"{name}/size"], same[f"{name}/p"], same["retention"]) == (0.0, 1.0, 1.0)
    shown = capsys.readouterr().out
    assert f"{folders[1]} beside {folders[0]}, in percent" in shown
    assert "…" not in shown  # a name goes on in the next line rather than lose its end
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80  # a pipe is as wide as the narrowest terminals
    assert all(line[-1] in "┓┃┩┡│┘" for line in lines if line[:1] in "┏┃┡│└" and line)
    for column in ("first", "second", "difference", "95 % interval", "strict R@1", "median rank", "ties", "queries"):
        assert column in shown
    assert str(models[0].parent) not in shown
    assert "| retention | 100.00 |" in (out / f"{compared[1]}.md").read_text()


def test_embeddings_are_taken_from_the_cache(models, root, tmp_path):
    cache, found = tmp_path / "cache", []
    for number in range(2):
        out = tmp_path / f"{number}.json"
        assert evaluate(models[:1], root, "coco_val2017", "--cache", cache, "--out", out) == 0
        found.append((json.loads(out.read_text())["numbers"], sorted(cache.iterdir())))
    assert found[0] == found[1]
    assert len(found[0][1]) == 4
    evaluate(models[1:], root, "coco_val2017", "--cache", cache)
    assert len(list(cache.iterdir())) == 8


def test_other_fits_and_wordings_stand_in_the_settings(models, root, tmp_path):
    out = tmp_path / "a.json"
    evaluate(models[:1], root, "coco_val2017", "--fit", "squash", "--captions", "one_line", "--out", out)
    settings = json.loads(out.read_text())["settings"]["benchmarks"]["coco_val2017"]
    assert (settings["image"], settings["caption"]) == ("squash, 16×16", "one_line")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--items",), "--items writes into the folder --out, got None"),
        (("--out", "a.json", "--model", "b"), "--out must be a folder where several models are compared, got a.json"),
        (("--bootstrap", "-1"), "--bootstrap must be a whole number of at least 0"),
    ],
)
def test_refusals(models, root, more, message, capsys, monkeypatch, tmp_path):
    if "--items" in more:
        pytest.importorskip("pyarrow")
    with pytest.raises(SystemExit):
        evaluate(models[:1], root, "coco_val2017", *more)
    assert message in capsys.readouterr().err


def test_latex_escapes():
    found = latex({"a_b & c/R@1": 0.5, "a_b & c/queries": 3.0})
    assert found.splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & R@1 & queries \\",
        r"\midrule",
        r"a b \& c & 50.0 & 3 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
