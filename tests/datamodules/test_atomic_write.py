"""Files that are whole or not there."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import contextmanager

import pytest

from datamodules.atomic_write import atomic_write, write_text


@contextmanager
def full_disk(left=1000):
    """No file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there_and_the_error_names_the_file(tmp_path):
    file = tmp_path / "page.html"
    write_text(file, "before é")
    with full_disk(), pytest.raises(OSError, match=r"File too large: '.*page\.html'$"):
        write_text(file, "after" * 1000)
    assert file.read_text(encoding="utf-8") == "before é"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_follows_the_umask_whatever_a_library_gave_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a") as draft:
            draft.unlink()
            os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_two_hosts_on_one_disk_have_drafts_of_their_own(tmp_path, monkeypatch):
    """Process numbers alone may meet."""
    drafts = []
    for host in ("node1", "node2"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        with atomic_write(tmp_path / "a") as draft:
            drafts.append(draft)
    assert drafts[0] != drafts[1]


def test_a_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory: '.*none/a'$"):
        write_text(tmp_path / "none" / "a", "x")
