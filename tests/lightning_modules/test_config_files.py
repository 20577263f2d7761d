"""Config files are looked at before anything else: one line with file and line, and where a setting stands."""

from __future__ import annotations

import pytest

from lightning_modules.cli.config_files import ConfigError, check_configs, line_of


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "my.yaml: the file is empty"),
        (b"# a comment\n", "my.yaml: the file is empty"),
        (b"\x7fELF\xff\x00", "my.yaml: no YAML, it is no text"),
        (b"- a\n- b\n", "my.yaml: must hold settings, `name: value`, got a list"),
        (b"only words\n", "got 'only words'"),
        (b"a: {b: 1\nc: 2\n", "my.yaml, line 2: no YAML"),
        (b"data:\n  seed: 1\n  seed: 2\n", "my.yaml, line 3: data.seed is given twice, in line 2 too"),
        (b"a: 1\nb:\n- {c: 1, c: 2}\n", "line 3: b.c is given twice"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_bytes(content)
    for words in (["fit", "--config", "my.yaml"], ["fit", "--config=my.yaml"], ["fit", "--model", "my.yaml"]):
        with pytest.raises(ConfigError) as stopped:
            check_configs(words)
        assert says in str(stopped.value)
        assert len(str(stopped.value)) <= 180


def test_a_missing_file_and_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"--config mime.yaml: no such file; did you mean mine.yaml\?"):
        check_configs(["--config", "mime.yaml"])
    with pytest.raises(ConfigError, match=r"no such file; did you mean configs/beta_bce.yaml\?"):
        check_configs(["--config", "configs/bet_bce.yaml"])
    with pytest.raises(ConfigError, match=r"--config \.: Is a directory"):
        check_configs(["--config", "."])
    check_configs(["--config", '{"a": 1}', "--config=mine.yaml", "--text", "other.yaml"])


def test_where_a_setting_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("model:\n  class_path: B\n  init_args:\n    beta: 3\ntrainer:\n  callbacks:\n"
                                     "  - class_path: C\n    init_args:\n      decay: 2\n")  # fmt: skip
    words = ["fit", "--config", "a.yaml"]
    assert line_of("model.beta", words) == "a.yaml, line 4"
    assert line_of("trainer.callbacks.decay", words) == "a.yaml, line 9"
    assert line_of("model.gamma", words) == ""
    assert line_of("model.beta", [*words, "--model.init_args.beta", "3"]) == ""
    assert line_of("model.beta", [*words, "--config", str(tmp_path / "a.yaml")]) == "a.yaml, line 4"
