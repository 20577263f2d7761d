"""The schemas of the configs are those of the parsers; they accept every config and mark mistakes. Configs in short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli.main import main
from lightning_modules.cli.schema import schemas, text_of

jsonschema = pytest.importorskip("jsonschema", reason="the configs' test needs jsonschema")
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "schemas"
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted((ROOT / "configs" / "recipes").glob("*.yaml"))]
FIRST = "# yaml-language-server: $schema="


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft7Validator(json.loads((FOLDER / "fit.json").read_text()))


@pytest.mark.slow
def test_they_are_the_parsers():
    """``make schemas`` writes them; the trainer's own settings may differ with another version of Lightning."""
    made = schemas()
    assert set(made) == {file.stem for file in FOLDER.glob("*.json")}
    for name, schema in made.items():
        stored = json.loads((FOLDER / f"{name}.json").read_text())
        if name == "fit":
            for one in (schema, stored):
                assert len(one["properties"].pop("trainer")["properties"]) > 30
                kept = {key: one["definitions"][key] for key in one["definitions"] if "lightning." not in key}
                one["definitions"] = kept
        assert text_of(schema) == text_of(stored), f"{name}: make schemas"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_config_names_its_schema_and_fits_it(config, validator):
    first = config.read_text().splitlines()[0]
    assert first.startswith(FIRST)
    assert (config.parent / first.removeprefix(FIRST)).resolve() == FOLDER / "fit.json"
    assert not [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(yaml.safe_load(config.read_text()))]


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"modle": {}}, []),
        ({"data": {"batch_sise": 3}}, ["data"]),
        ({"data": {"batch_size": "many"}}, ["data", "batch_size"]),
        ({"data": {"sampling": {"phrases": 1.5}}}, ["data", "sampling", "phrases"]),
        ({"data": {"pair_reading": {"extractor": "nltkk"}}}, ["data", "pair_reading", "extractor"]),
        ({"trainer": {"max_step": 3}}, ["trainer"]),
        ({"model": {"class_path": "BetaClip", "init_args": {"betta": 0.5}}}, ["model"]),
        ({"model": {"class_path": "lightning_modules.BetaClip", "init_args": {"objective": "be"}}}, ["model"]),
        ({"model": {"class_path": "lightning_modules.MulClip", "init_args": {"optim": {"lr": "high"}}}}, ["model"]),
        (
            {"trainer": {"callbacks": [{"class_path": "CompileBlocks", "init_args": {"x": 1}}]}},
            ["trainer", "callbacks"],
        ),
    ],
)
def test_mistakes_are_marked(settings, at, validator):
    errors = list(validator.iter_errors(settings))
    assert [list(error.path)[: len(at)] for error in errors] == [at]


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"class_path": "mine.Method", "init_args": {"anything": 1}}},
        {"model": {"init_args": {"beta": 0.3}}},
        {"model": "BetaClip"},
        {"trainer": {"callbacks+": ["lightning_modules.callbacks.CompileBlocks"], "logger": "WandbLogger"}},
        {"data": {"pairs": [["a.jpg", "A cat."]], "train_transform": {"class_path": "datamodules.Squash"}}},
    ],
)
def test_what_is_right_is_not_marked(settings, validator):
    assert not [error.message for error in validator.iter_errors(settings)]


def test_prepare_and_the_other_commands():
    assert json.loads((FOLDER / "validate.json").read_text())["$ref"] == "fit.json"
    table = jsonschema.Draft7Validator(json.loads((FOLDER / "prepare_table.json").read_text()))
    assert table.is_valid({"images": "a", "annotations": "b.csv", "out": "c", "join_rows": True})
    assert not table.is_valid({"image": "a"})
    assert not table.is_valid({"processes": "all"})


def printed(capsys, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["fit", *words])
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_config_in_short_is_the_same_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning"])
    given = ["--config", "beta_bce", "--config", "recipes/ddp", "--data.batch_size", "8"]
    brief = printed(capsys, *given, "--print_config", "--brief")
    whole = printed(capsys, *given, "--print_config")
    assert len(brief.splitlines()) < len(whole.splitlines()) / 2
    assert yaml.safe_load(brief)["data"]["batch_size"] == 8
    assert "image_heads" not in brief  # 4, as is the default
    (tmp_path / "mine.yaml").write_text(brief)
    assert yaml.safe_load(printed(capsys, "--config", "mine.yaml", "--print_config")) == yaml.safe_load(whole)
