"""Image files and captions without shards: the samples that prepared shards would give, split, counted, resumed."""

from __future__ import annotations

import logging
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from lightning import Trainer, seed_everything

from datamodules import DataError, GrainSampling, GranularityData, PairError, PairReading, SceneSet, SkipPolicy
from datamodules.prepare.job import PrepareJob
from datamodules.prepare.pairs import Pair, PairSource
from datamodules.prepare.table import prepare_table
from datamodules.shards.discovery import find_shards
from datamodules.shards.reader import IndexedShards
from lightning_modules import ClipFinetune, OptimConfig
from tests.helpers.tiny import make_sample, picture, write_shards
from tests.helpers.tiny_run import TINY

RULES = PairReading(extractor="rules")


@pytest.fixture
def pairs(tmp_path) -> list[tuple[str, str]]:
    """24 images and captions, one of them a PNG."""
    found = []
    for number in range(24):
        kind = "PNG" if number == 3 else "JPEG"
        file = tmp_path / "images" / f"{number}.{kind.lower()}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture(number, format=kind))
        found.append((str(file), make_sample(number).caption))
    return found


def module(pairs, *, reading: PairReading = RULES, **settings) -> GranularityData:
    made = GranularityData(
        pairs=pairs, pair_reading=reading, **{"batch_size": 8, "num_workers": 0} | settings,
        image_size=16, context_length=77, sampling=GrainSampling(2, 2),
    )  # fmt: skip
    made.setup("fit")
    return made


def keys(data: GranularityData, batches: int | None = None) -> list[str]:
    return [key for batch in islice(data.train_dataloader(), batches) for key in batch.keys]


def table(folder: Path, pairs, name: str = "mine.csv", columns: str = "image,caption") -> Path:
    file = folder / name
    file.write_text("\n".join([columns, *(f'images/{Path(path).name},"{text}"' for path, text in pairs)]))
    return file


def test_they_are_the_samples_that_prepare_writes(tmp_path, pairs):
    mine = table(tmp_path, pairs)
    prepare_table(tmp_path, mine, PrepareJob(out=tmp_path / "shards", extractor="rules"))
    stored = IndexedShards.of(find_shards(tmp_path / "shards")).reader()
    made = RULES.read(str(mine), "data.pairs").reader()
    assert len(made) == len(stored) == 24
    for number in range(24):
        wanted, sample = stored.read(number), made.read(number)
        assert sample.pop("__key__").endswith(wanted.pop("__key__").rpartition("_")[2])
        wanted["json"] = wanted["json"].replace(b'"source":"mine"', b'"source":"mine.csv"')
        assert sample == wanted


@pytest.mark.parametrize("workers", [0, 2])
def test_every_pair_once_a_pass_with_its_grains(pairs, workers):
    data = module(pairs, num_workers=workers)
    batches = list(data.train_dataloader())
    assert sorted(key for batch in batches for key in batch.keys) == sorted(
        str(Path(path).with_suffix("")).translate({47: 95}) for path, _ in pairs
    )
    assert all(batch.images.shape == (8, 3, 16, 16) for batch in batches)
    assert all(slots.valid.any() for batch in batches for grain, slots in batch.grains.items() if grain != "summary")
    assert len({int(i) for batch in batches for i in batch.ids}) == 24
    assert keys(module(pairs, num_workers=0)) == [key for batch in batches for key in batch.keys]


def test_a_table_and_a_list_are_the_same_data(tmp_path, pairs):
    of_list, of_table = module(pairs), module(str(table(tmp_path, pairs)))
    assert keys(of_list) == keys(of_table)
    semicolons = tmp_path / "other.tsv"
    semicolons.write_text(
        "file\ttext\n" + "\n".join(f"{Path(path).name}\t{text}" for path, text in pairs), encoding="cp1252"
    )
    reading = PairReading(
        extractor="rules", folder=str(tmp_path / "images"), image_column="file", caption_column="text",
        encoding="cp1252",
    )  # fmt: skip
    assert keys(module(semicolons, reading=reading)) == keys(of_list)
    short = [(Path(path).name, text) for path, text in pairs]
    assert keys(module(short, reading=PairReading(extractor="rules", folder=str(tmp_path / "images")))) == keys(of_list)


def test_the_split_is_by_image_exact_and_the_same_every_time(pairs):
    twice = [*pairs, *((path, f"Again, {text}") for path, text in pairs)]
    data = module(twice, reading=PairReading(extractor="rules", val_share=0.25))
    train, val = data._train[0], data._val
    assert isinstance(train, PairSource)
    assert isinstance(val, PairSource)
    assert (len(train.pairs), len(val.pairs)) == (36, 12)
    assert not {pair.image for pair in train.pairs} & {pair.image for pair in val.pairs}
    again = module(twice[::-1], reading=PairReading(extractor="rules", val_share=0.25))._val
    assert isinstance(again, PairSource)
    assert {pair.image for pair in again.pairs} == {pair.image for pair in val.pairs}
    assert sum(len(batch.keys) for batch in data.val_dataloader()) == 12
    first = data.first_val_samples()
    assert first is not None
    assert any(text.startswith("A ") for text in first.texts.values())
    assert data.label_names() == ()
    data.setup("validate")
    assert not data._train
    assert len(data._val[0].url) > 10
    one = module(pairs[:3], batch_size=2, reading=PairReading(extractor="rules", val_share=0.01))
    assert [s.samples for s in one._val] == [1]


def test_validation_pairs_and_test_pairs(pairs):
    data = module(pairs[:16], val_pairs=pairs[16:])
    assert [shard.samples for shard in data._val] == [8]
    data.setup("test")
    assert [shard.samples for shard in data._val] == [8]
    alone = GranularityData(val_pairs=pairs[16:], pair_reading=RULES, image_size=16, context_length=77)
    for stage in ("validate", "test"):
        alone.setup(stage)
        assert [shard.samples for shard in alone._val] == [8]  # and not the embedded scenes


def test_whether_there_is_a_validation_set_is_known_before_it_is_looked_for(tmp_path, pairs):
    shards = str(write_shards(tmp_path / "shards", 16)[0].parent)
    share = PairReading(extractor="rules", val_share=0.25)
    for settings, expected in (
        ({"shards": shards}, False),
        ({"shards": shards, "val_shards": shards}, True),
        ({"pairs": pairs, "pair_reading": RULES}, False),
        ({"pairs": pairs, "pair_reading": share}, True),
        ({"pairs": pairs[:16], "val_pairs": pairs[16:], "pair_reading": RULES}, True),
        ({"scenes": SceneSet(train=8, dev=8, held_out=8)}, True),
    ):
        data = GranularityData(**settings, batch_size=8, num_workers=0, image_size=16, context_length=77)
        assert data.validates == expected
        data.setup("fit")
        assert bool(data._val) == expected


def test_captions_of_one_image_are_joined_or_told_of(pairs, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", True)
    doubled = [*pairs, (pairs[0][0], "Seen from above,")]
    source = RULES.read(doubled, "data.pairs")
    assert len(source.pairs) == 25
    assert "data.pairs: 1 pairs name the image of an earlier one" in caplog.text
    joined = PairReading(extractor="rules", join_rows=True).read(doubled, "data.pairs")
    assert len(joined.pairs) == 24
    assert joined.pairs[0] == Pair(pairs[0][0], f"{pairs[0][1]}\n\nSeen from above.", pairs[0][0])


def test_the_split_does_not_depend_on_where_the_table_lies(tmp_path, pairs, monkeypatch):
    mine, reading = table(tmp_path, pairs), PairReading(extractor="rules", val_share=0.25)
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.copytree(tmp_path, tmp_path.with_name("moved"), dirs_exist_ok=True))
    found = [
        module(path, reading=reading)._val
        for path in (mine, "mine.csv", f"../{tmp_path.name}/mine.csv", moved / mine.name)
    ]
    assert {tuple(sorted(Path(pair.image).name for pair in source.pairs)) for source in found} == {
        tuple(sorted(Path(pair.image).name for pair in found[0].pairs))
    }
    assert {source.shard.url for source in found} == {found[0].shard.url}
    assert {tuple(source.reader().id(number) for number in range(6)) for source in found} == {
        tuple(found[0].reader().id(number) for number in range(6))
    }


def test_texts_that_are_no_utf8_do_not_end_a_run(tmp_path, pairs):
    odd = tmp_path / "caf\udce9.jpg"  # as os.listdir gives a name in Latin-1
    odd.write_bytes(picture(1))
    rows = [(str(odd), "A red ball."), (pairs[1][0], "A dog \ud83d runs.")]
    source = RULES.read(rows, "data.pairs")
    reader = source.reader()
    assert reader.id(0) != reader.id(1) != RULES.read([(pairs[1][0], "A dog  runs.")], "data.pairs").reader().id(0)
    assert len(keys(module(rows + pairs, skip=SkipPolicy(1.0)), 3)) == 24


def test_captions_in_the_place_of_paths_are_missing_images(pairs):
    with pytest.raises(PairError, match=r"24 of the 24 images of data\.pairs are missing"):
        RULES.read([(text * 20, path) for path, text in pairs], "data.pairs")


def test_bad_images_and_captions_are_counted_and_end_the_run_above_the_rate(tmp_path, pairs):
    cut, tiny, gif = tmp_path / "cut.jpg", tmp_path / "tiny.png", tmp_path / "a.gif"
    cut.write_bytes(picture(1)[:200])
    tiny.write_bytes(picture(1, 4, 4, "PNG"))
    gif.write_bytes(picture(1, format="GIF"))
    bad = [
        (str(cut), "A cut."),
        (str(tiny), "A dot."),
        (str(gif), "A GIF."),
        (pairs[0][0], " ..! "),
        (str(cut), "\ud800"),
    ]
    data = module([*pairs, *bad], batches_per_epoch=4, skip=SkipPolicy(1.0))
    reasons = [skip.reason for batch in data.train_dataloader() for skip in batch.skipped]
    assert reasons.count("caption") >= 1
    assert reasons.count("image") >= 3
    with pytest.raises(DataError, match=r"of .* samples cannot be used \((image|caption)"):
        list(module([*pairs, *bad], skip=SkipPolicy(0.01, 0)).train_dataloader())


def test_a_file_that_goes_while_training_is_counted(pairs):
    data = module(pairs, skip=SkipPolicy(0.5))
    Path(pairs[5][0]).unlink()
    skipped = [skip for batch in data.train_dataloader() for skip in batch.skipped]
    assert [(skip.reason, skip.key) for skip in skipped] == [("image missing", pairs[5][0])]


def test_missing_images_stop_the_run_or_are_left_out(pairs, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("grainclip"), "propagate", True)
    broken = [*pairs, ("nowhere.jpg", "A cat."), ("nowhere.jpg", "A dog.")]
    with pytest.raises(PairError, match=r"1 of the 25 images of data.pairs are missing, such as nowhere.jpg"):
        module(broken)
    data = module(broken, reading=PairReading(extractor="rules", skip_missing=True))
    assert [source[0].samples for source in data._train] == [24]
    assert "left out 1 images whose file is missing, such as nowhere.jpg" in caplog.text
    with pytest.raises(PairError, match=r"all 1 images of data.pairs are missing"):
        module(broken[24:], reading=PairReading(extractor="rules", skip_missing=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pairs": [("a.jpg",)]}, r"data.pairs\[0\] must be \(path, caption\), two texts, got \('a.jpg',\)"),
        ({"pairs": [("a.jpg", "A."), ("b.jpg", None)]}, r"data.pairs\[1\] must be"),
        ({"pairs": 3}, "must be a list of .* got int"),
        ({"pairs": [], "shards": "x"}, "data.pairs and data.shards are both given"),
        ({"val_pairs": [], "val_shards": "x"}, "data.val_pairs and data.val_shards are both given"),
        ({"pairs": [], "weights": [1.0]}, "data.weights is for several entries"),
        ({"pair_reading": PairReading(val_share=0.1)}, "takes validation from data.pairs"),
    ],
)
def test_what_is_refused_at_once(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        GranularityData(**arguments)
    assert len(str(error.value)) <= 200


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("a,b\n1,2\n", "mine.csv", "row 0 has no column 'image'.*--data.pair_reading.image_column"),
        ("image,caption\n", "mine.csv", "mine.csv must hold|data.pairs must hold at least one pair"),
        ("x", "mine.txt", "a table must be .csv"),
        ("image,caption\n../a.jpg,A cat.\n", "mine.csv", "row 0's 'image' must be"),
    ],
)
def test_bad_tables(tmp_path, content, name, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(PairError, match=words) as error:
        RULES.read(tmp_path / name, "data.pairs")
    assert len(str(error.value)) <= 180 + len(str(tmp_path))
    with pytest.raises(PairError, match=r"nowhere.csv"):
        RULES.read(tmp_path / "nowhere.csv", "data.pairs")


def test_no_image_left_to_train_on(pairs):
    with pytest.raises(ValueError, match=r"val_share must lie in \[0, 1\), got 1"):
        PairReading(val_share=1.0)
    with pytest.raises(PairError, match=r"leaves no image of data.pairs to train on: it has 1"):
        module(pairs[:1], reading=PairReading(extractor="rules", val_share=0.5))


def test_nltks_data_is_asked_for_before_any_work(pairs, monkeypatch):
    monkeypatch.setattr("datamodules.granularity.nltk_data.missing_nltk_data", lambda: ["punkt_tab"])
    with pytest.raises(PairError, match=r"NLTK's data is missing.*--data.pair_reading.extractor rules needs none"):
        module(pairs, reading=PairReading())


def test_another_list_is_another_data_set(pairs):
    data, changed = module(pairs), module([*pairs[:-1], (pairs[-1][0], "A new caption.")])
    assert data.trained_on() != changed.trained_on()
    assert data.fingerprint() != changed.fingerprint()
    assert data.trained_on() == module(pairs).trained_on()
    assert data.describe()["samples"] == 24


def train(folder: Path, pairs, steps: int, checkpoint: str | None = None) -> tuple[Trainer, dict[str, torch.Tensor]]:
    seed_everything(1)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0, enable_checkpointing=False,
    )  # fmt: skip
    method = ClipFinetune(encoder=TINY, optim=OptimConfig(lr=1e-2, warmup_steps=1))
    trainer.fit(method, module(pairs), ckpt_path=checkpoint)
    return trainer, method.state_dict()


@pytest.mark.slow
def test_a_run_resumes_at_the_very_next_pair(tmp_path, pairs):
    _, whole = train(tmp_path, pairs, 5)
    stopped, _ = train(tmp_path, pairs, 5 - 3)
    stopped.save_checkpoint(tmp_path / "two.ckpt")
    _, resumed = train(tmp_path, pairs, 5, str(tmp_path / "two.ckpt"))
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0, msg=name)
