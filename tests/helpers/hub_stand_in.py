"""A local stand-in of the Hugging Face hub's HTTP API: as much as an upload of a folder asks for."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubStandIn:
    """``with HubStandIn() as hub``: ``hub.url`` is an endpoint; ``hub.files`` the files by repository and name.

    Args:
        token: that may write; another one is refused with status 401.

    While ``full`` is true, files are refused with status 403.
    """

    def __init__(self, token: str = "hf_right") -> None:
        self.token, self.full = token, False
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self, b"")

            def do_POST(self):
                hub.answer(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> HubStandIn:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        status, document, headers = self._reply(request, path, body)
        data = json.dumps(document).encode()
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    def _reply(self, request: Any, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials"}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            self.files[name], self.private[name] = {}, asked.get("private", asked.get("visibility") == "private")
            return 200, {"url": f"{self.url}/{name}", "id": name}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        owner_and_name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if owner_and_name not in self.files:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return 200, {"files": files}, {}
        if "/commit/" in path and self.full:
            return 403, {"error": "Storage limit reached"}, {}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[owner_and_name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.url}/{owner_and_name}/commit/0"
            return 200, {"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None}, {}
        siblings = [{"rfilename": name} for name in self.files[owner_and_name]]
        return 200, {"id": owner_and_name, "siblings": siblings, "sha": "0" * 40, "private": True, "tags": []}, {}
