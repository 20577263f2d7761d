"""A new ``last.ckpt`` takes the place of the old one, which is there under its name at any moment, and then stays."""

from __future__ import annotations

import os
import zipfile

import pytest

from lightning_modules.atomic_io import put_in_place


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


def test_a_kill_between_the_two_names_changes_nothing(tmp_path):
    last = tmp_path / "last.ckpt"
    write(last, "a")
    os.link(last, tmp_path / "last-0.ckpt")  # where a process died
    os.link(last, tmp_path / "last-0.ckpt.link")
    write(tmp_path / "new", "b")
    put_in_place(tmp_path / "new", last)
    assert (read(last), read(tmp_path / "last-0.ckpt")) == ("b", "a")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last-0.ckpt", "last.ckpt"]
