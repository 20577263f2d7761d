"""When a shard is asked for again: pauses, limits, and which failures are refusals; by a clock that stands still."""

from __future__ import annotations

import io
import random
import threading
import time

import pytest

from datamodules.shards import download, transfer
from datamodules.shards.download import FetchPolicy
from datamodules.shards.transfer import RefusedError, TransferStopped


class Clock:
    """Seconds that pass only while somebody waits, in place of the event that stops a transfer."""

    def __init__(self, stopped_after: float = 1e9) -> None:
        self.now, self.pauses, self.stopped_after = 0.0, [], stopped_after

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return self.now > self.stopped_after


@pytest.fixture
def failing(monkeypatch):
    """Starts a fetch that always meets ``error``."""
    monkeypatch.setattr(random.SystemRandom, "uniform", lambda self, low, high: (low + high) / 2)

    def start(error, policy, clock):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(download, "_copy", fail)
        monkeypatch.setattr(time, "monotonic", lambda: clock.now)
        shard = download.fetch("https://host/a.tar", policy, clock)
        shard.file.close()
        return shard

    return start


def test_pauses_double_up_to_half_a_minute_and_end_with_the_patience(failing):
    clock = Clock()
    shard = failing(OSError("no answer"), FetchPolicy(), clock)
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]  # 151 s; 30 more are beyond 180
    assert shard.problem == "it could not be fetched: no answer (10 tries in 151 s)"
    assert shard.seconds == 151


def test_a_refusal_is_tried_three_times(failing):
    clock = Clock()
    shard = failing(RefusedError("no such shard"), FetchPolicy(), clock)
    assert clock.pauses == [1, 2]
    assert shard.problem == "it could not be fetched: no such shard (3 tries in 3 s)"


def test_a_stop_ends_the_waiting(failing):
    clock = Clock(stopped_after=5)
    with pytest.raises(TransferStopped):
        failing(OSError("no answer"), FetchPolicy(), clock)
    assert clock.pauses == [1, 2, 4]


@pytest.mark.parametrize("status", range(1, 100))
def test_curl_s_lost_connections_are_no_refusals(status):
    lost = {5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92}
    error = transfer._failure(["curl"], status, io.BytesIO(b"curl: (n) something"))
    assert isinstance(error, ConnectionError) == (status in lost)
    assert isinstance(error, RefusedError) == (status not in lost)
    assert isinstance(transfer._failure("cat a.tar", status, io.BytesIO()), RefusedError)


@pytest.mark.parametrize(("code", "busy"), [(404, False), (403, False), (408, True), (425, True), (429, True),
                                            (500, True), (503, True), (600, False)])  # fmt: skip
def test_http_s_busy_answers_are_no_refusals(code, busy):
    errors = io.BytesIO(f"curl: (22) The requested URL returned error: {code}".encode())
    assert isinstance(transfer._failure(["curl"], 22, errors), ConnectionError) == busy


def test_the_last_line_of_a_command_s_errors_is_told():
    assert str(transfer._failure("cat a.tar", 3, io.BytesIO(b"no bucket\n"))) == "no bucket (exit status 3)"
    assert (
        str(transfer._failure("cat a.tar", 3, io.BytesIO(b"first\n" + b"x" * 5000))) == f"{'x' * 200} (exit status 3)"
    )
    assert str(transfer._failure("cat a.tar", 4, io.BytesIO())) == "exit status 4"


def test_a_trickle_after_a_good_start_is_a_stall(tmp_path):
    trickle = "head -c 70000 /dev/zero; for i in $(seq 100); do head -c 100 /dev/zero; sleep 0.1; done"
    with (
        (tmp_path / "a.tar").open("wb") as file,
        pytest.raises(TimeoutError, match=r"it hangs: \d{1,5} bytes in 0\.5 s, "),
    ):
        transfer.receive(f"pipe:{trickle}", file, 0.5, threading.Event())
