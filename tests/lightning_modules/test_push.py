"""``lightning export --push`` against a local stand-in of the hub: files, card, privacy, and what is refused."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants

from lightning_modules.cli.main import main
from tests.helpers.hub_stand_in import HubStandIn
from tests.helpers.tiny_run import fit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder, epochs=1)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with HubStandIn() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield stand_in


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["export", *map(str, words)])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert len(line) <= 200
    return line


def test_a_folder_is_pushed_whole_private_and_once(checkpoint, tmp_path, hub, capsys):
    words = ["export", str(checkpoint), str(tmp_path / "out"), "--push", "me/tiny", "--license", "mit"]
    assert main(words) == 0
    assert f"pushed to {hub.url}/me/tiny" in capsys.readouterr().out
    assert hub.private == {"me/tiny": True}
    sent = hub.files["me/tiny"]
    assert sent == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    head = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
    assert (head["license"], head["library_name"]) == ("mit", "transformers")
    results = ModelCard(sent["README.md"].decode()).data.eval_results
    assert results is not None
    assert {result.metric_name for result in results} >= {"caption/text_to_image/R@1"}
    told = refused(capsys, checkpoint, tmp_path / "again", "--push", "me/tiny")
    assert "me/tiny is there already" in told
    assert not (tmp_path / "again").exists()


def test_an_upload_that_fails_says_what_finishes_it(checkpoint, tmp_path, hub, capsys):
    hub.full, folder = True, tmp_path / "my out"
    with pytest.raises(SystemExit):
        main(["export", str(checkpoint), str(folder), "--push", "me/tiny"])
    told = capsys.readouterr().err
    assert f"me/tiny cannot be pushed to {hub.url}: status 403; the repository is made and the folder is whole" in told
    hub.full, command = False, shlex.split(told.split("`")[1])
    assert command == ["hf", "upload", "me/tiny", str(folder)]
    command[0] = str(Path(sys.executable).with_name("hf"))
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=100)
    assert hub.files["me/tiny"] == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_public_where_it_is_asked_for(checkpoint, tmp_path, hub):
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--push", "me/open", "--public"]) == 0
    assert hub.private == {"me/open": False}


def test_a_rehearsal_sends_and_writes_nothing(checkpoint, tmp_path, hub, capsys):
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--push", "me/tiny", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "bytes  model.safetensors" in said
    assert "would be pushed to me/tiny, private" in said
    assert "license: unknown" in said
    assert "## Intended use and limits" in said
    assert hub.asked == []
    assert not (tmp_path / "out").exists()


def test_no_token_a_wrong_one_and_no_network(checkpoint, tmp_path, hub, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "me/tiny cannot be pushed to http://127.0.0.1" in refused(capsys, checkpoint, out, "--push", "me/tiny")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("lightning_modules.cli.push.get_token", lambda: None)
    assert "--push needs a token of the hub" in refused(capsys, checkpoint, out, "--push", "me/tiny")
    monkeypatch.setattr("lightning_modules.cli.push.get_token", lambda: "hf_right")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be pushed to http://127.0.0.1:9" in refused(capsys, checkpoint, out, "--push", "me/tiny")
    assert not out.exists()
    assert hub.files == {}
