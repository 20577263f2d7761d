"""``make gpu`` in miniature on the CPU: every row runs, none fails, and what must be equal is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.gpu import base_rows, loss_rows, run, speed_rows, training_rows

PARTS = (loss_rows, speed_rows, base_rows, training_rows)


@pytest.fixture
def cheap_rows(monkeypatch):
    """Rows that count how often they are measured, in place of the real ones."""
    calls: list[str] = []

    def rows(names):
        def measured(name):
            calls.append(name)
            if name == "losses/bad":
                raise ValueError("it failed\nin two lines")
            return {"value": 1.0, "missing": None}

        return [run.Row(name, lambda name=name: measured(name)) for name in names]

    monkeypatch.setattr(run, "PARTS", {
        "losses": lambda device: rows(["losses/a", "losses/bad"]), "base": lambda device: rows(["base/b"]),
    })  # fmt: skip
    return calls


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_it_goes_on_and_tries_failed_rows_again(tmp_path, cheap_rows, capsys):
    given = ["--device", "cpu", "--out", str(tmp_path), "--parts", "losses,base"]
    assert run.main(given) == 1
    assert results(tmp_path)["rows"]["losses/bad"]["error"] == "ValueError: it failed"
    assert "failed: losses/bad" in capsys.readouterr().out
    assert run.main(given) == 1
    assert cheap_rows == ["losses/a", "losses/bad", "base/b", "losses/bad"]


def test_other_code_or_another_device_begins_anew_and_loses_nothing(tmp_path, cheap_rows, monkeypatch):
    given = ["--device", "cpu", "--out", str(tmp_path), "--parts", "base"]
    assert run.main(given) == 0
    before = results(tmp_path)
    header = run.header
    monkeypatch.setattr(run, "header", lambda device: header(device)._replace(code="other"))
    assert run.main(given) == 0
    assert cheap_rows == ["base/b", "base/b"]
    assert json.loads((tmp_path / "results-before.json").read_text()) == before
    assert results(tmp_path)["header"]["code"] == "other"


def test_no_row_is_begun_after_the_limit(tmp_path, cheap_rows, capsys):
    assert run.main(["--device", "cpu", "--out", str(tmp_path), "--parts", "base", "--minutes", "-1"]) == 0
    assert not cheap_rows
    assert "not reached" in capsys.readouterr().out


def test_unknown_parts_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["--parts", "speeed", "--out", str(tmp_path)])
    assert "--parts must be some of losses, speed, base, training, got speeed" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_every_row_runs_in_miniature(tmp_path):
    command = [sys.executable, run.__file__, "--device", "cpu", "--out", str(tmp_path), "--minutes", "15"]
    assert subprocess.run(command, check=False).returncode == 0  # as people run it, without the tests' import hook
    cpu = run.torch.device("cpu")
    rows = results(tmp_path)["rows"]
    assert list(rows) == [row.name for part in run.PARTS.values() for row in part(cpu)]
    assert list(rows) == [row.name for part in run.PARTS.values() for row in part(run.torch.device("cuda"))]
    for name, row in rows.items():
        assert "error" not in row, name
        part, _, kind = name.rpartition("/")
        if part.startswith("losses/"):
            most = 1e-5 if kind == "fp32" else 1e-2
            assert row["error_of_loss"] < most, name
            assert row["error_of_gradient"] < most, name
        if part.startswith("training/"):
            if kind != "bf16-mixed":  # DDP and FSDP2 may add in another order
                assert row["difference"] <= (1e-3 if kind in ("DDP", "FSDP2", "compiled") else 0.0), name
            assert row["loss"] == pytest.approx(row["compared_loss"], rel=0.05), name
        if name.startswith("speed/") and "loader" not in name:
            assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
            assert 0 < row.get("loss_share", 0.5) < 1, name
