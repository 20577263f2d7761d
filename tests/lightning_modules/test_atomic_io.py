"""A new ``last.ckpt`` takes the place of the old one, which is there under its name at any moment, and then stays."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path

import pytest
import torch

from datamodules.atomic_write import draft_name
from lightning_modules.checkpoints.atomic_save import AtomicCheckpointIO, CheckpointError, is_whole, put_in_place


def write(path, text):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("text", text)


def read(path):
    with zipfile.ZipFile(path) as file:
        return file.read("text").decode()


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_and_the_one_before(tmp_path, monkeypatch, links):
    last, there, replace = tmp_path / "last.ckpt", [], os.replace

    def watched(source, target):
        there.append(last.exists())
        replace(source, target)

    def refused(source, target):
        raise OSError("no links here")

    monkeypatch.setattr(os, "replace", watched)
    if not links:
        monkeypatch.setattr(os, "link", refused)
    for text in "abc":
        write(tmp_path / "new", text)
        put_in_place(tmp_path / "new", last)
    assert (read(last), read(tmp_path / "last-0.ckpt")) == ("c", "b")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last-0.ckpt", "last.ckpt"]
    assert all(there[1:]) == links  # the first time there was none yet


def test_a_folder_takes_the_place_of_a_file_and_the_other_way(tmp_path):
    last, before, new = tmp_path / "last.ckpt", tmp_path / "last-0.ckpt", tmp_path / "new"
    write(last, "a")
    new.mkdir()
    (new / "slice").write_text("b")
    put_in_place(new, last)
    assert (last / "slice").read_text() == "b"
    assert read(before) == "a"
    write(new, "c")
    put_in_place(new, last)  # the folder was not whole: the file before it stays
    assert (read(last), read(before)) == ("c", "a")


def test_a_kill_between_the_two_names_changes_nothing(tmp_path):
    last = tmp_path / "last.ckpt"
    write(last, "a")
    os.link(last, tmp_path / "last-0.ckpt")  # where a process died
    os.link(last, tmp_path / draft_name("last-0.ckpt"))
    write(tmp_path / "new", "b")
    put_in_place(tmp_path / "new", last)
    assert (read(last), read(tmp_path / "last-0.ckpt")) == ("b", "a")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last-0.ckpt", "last.ckpt"]


class Breaks(io.FileIO):
    """A file whose disk gives up, or whose process is told to stop, amid writing."""

    error: BaseException = OSError(errno.ENOSPC, "No space left on device")

    def write(self, data):
        if self.tell() > 5000:
            raise self.error
        return super().write(data)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "No space left on device; the one before"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (SystemExit(143), SystemExit, None),
    ],
)
def test_a_save_that_is_broken_off(tmp_path, monkeypatch, error, raised, says):
    """PyTorch's writer complains of its own file in every case; the cause is told, and the old checkpoint is whole."""
    last, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"weights": torch.zeros(10)}, last)
    before = last.read_bytes()
    opened = Path.open

    def breaks(self, mode="r", *args, **kwargs):
        if mode != "wb":
            return opened(self, mode, *args, **kwargs)
        file = Breaks(self, "wb")
        file.error = error
        return file

    monkeypatch.setattr(Path, "open", breaks)
    with pytest.raises(raised) as found:
        writer.save_checkpoint({"weights": torch.zeros(100_000)}, last)
    monkeypatch.undo()
    if says:
        assert says in str(found.value)
        assert "enforce fail" not in str(found.value)
    assert last.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_folders_are_made_and_a_cut_file_is_not_whole(tmp_path):
    last, writer = tmp_path / "new" / "run" / "last.ckpt", AtomicCheckpointIO()
    assert not is_whole(last)
    writer.save_checkpoint({"weights": torch.arange(10)}, last)
    assert is_whole(last)
    assert writer.load_checkpoint(last, weights_only=True)["weights"].tolist() == list(range(10))
    last.write_bytes(last.read_bytes()[:-100])
    assert not is_whole(last)


class Unknown:
    """Something that a checkpoint of numbers and settings should not hold."""


def test_a_checkpoint_that_holds_code_is_refused_without_bad_advice(tmp_path):
    torch.save({"thing": Unknown()}, tmp_path / "odd.ckpt")
    with pytest.raises(
        CheckpointError, match=r"odd\.ckpt cannot be read: it holds more than numbers and known"
    ) as found:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "odd.ckpt", weights_only=True)
    assert "weights_only" not in str(found.value)
