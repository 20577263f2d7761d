"""A local HTTP server that fails on purpose: it refuses, breaks off, cuts, and keeps requests waiting."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

FAULTS = ("busy", "missing", "drop", "cut", "delay")


class FlakyServer:
    """``with FlakyServer(folder) as server``: the files of ``folder`` at ``server.url(name)``.

    Args:
        folder: the files.
        share: of requests that fail.
        faults: ``busy`` is 503, ``missing`` 404, ``drop`` no answer, ``cut`` half of the file, ``delay`` nothing for
            ``hang`` seconds, then the end.
        seed: of what fails; requests may come in any order, so only the shares are the same every time.
    """

    def __init__(self, folder: Path, share=0.0, faults=FAULTS, seed=0, hang=2.0) -> None:
        self.folder, self.share, self.faults, self.hang = Path(folder), share, tuple(faults), hang
        self.answers: Counter[str] = Counter()
        self.missing: set[str] = set()  # names that are 404 as long as they stand here
        self.script: list[str] = []  # the answers to the next requests
        self._rng, self._lock = random.Random(seed), threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> FlakyServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Storage goes away: nobody listens any more."""
        self._server.shutdown()
        self._server.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = unquote(request.path.lstrip("/"))
        with self._lock:
            fault = self._rng.choice(self.faults) if self._rng.random() < self.share else "whole"
            fault = "missing" if name in self.missing else self.script.pop(0) if self.script else fault
            self.answers[fault] += 1
        data = (self.folder / name).read_bytes()
        if fault in ("drop", "delay"):
            time.sleep(self.hang if fault == "delay" else 0)
            request.close_connection = True
            return
        request.send_response({"busy": 503, "missing": 404}.get(fault, 200))
        request.send_header("Content-Length", str(len(data) if fault in ("whole", "cut") else 0))
        request.end_headers()
        if fault in ("whole", "cut"):
            request.wfile.write(data if fault == "whole" else data[: len(data) // 2])
        request.close_connection = True
