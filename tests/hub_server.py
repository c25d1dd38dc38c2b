"""A hub of our own: one model from a folder, over HTTP, as `huggingface_hub` asks for it, and commits into it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

__all__ = ["COMMIT", "MODEL", "Hub", "serve"]

MODEL, COMMIT = "somebody/model", "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What it serves and was asked for.

    Attributes:
        folder: the files of the model.
        fetched: names of files that were sent whole, in order.
        broken: names of files that are refused.
        private: whether the model is.
        branches: that were made.
        commits: messages and branches of commits, in order.
        refuses: whether nothing may be written.
        gated: whether all files are kept for those who are logged in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.broken = folder, list[str](), set[str]()
        self.private, self.refuses = False, False
        self.branches, self.commits = list[str](), list[tuple[str, str]]()
        self.gated = False

    def info(self) -> dict[str, Any]:
        """What the hub says of the model."""
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file()]
        siblings = [
            {
                "rfilename": path.name,
                "size": path.stat().st_size,
                "blobId": digest(path)[:40],
                "lfs": {"sha256": digest(path), "size": path.stat().st_size, "pointerSize": 130},
            }
            for path in files
        ]
        return {"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": siblings, "private": self.private, "tags": []}

    def commit(self, lines: list[dict[str, Any]], branch: str) -> None:
        """Write and delete what a commit says."""
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "header":
                self.commits.append((value["summary"], branch))
            elif kind == "deletedFile":
                (self.folder / value["path"]).unlink()
            else:
                (self.folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / value["path"]).write_bytes(base64.b64decode(value["content"]))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def serve(folder: Path, cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub, and a client that knows no other and keeps what it fetches in an empty cache."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("no_proxy", "127.0.0.1")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        path, data = self.path.partition("?")[0], self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.refuses:
            self._send(403, b'{"error": "no"}', {"Content-Type": "application/json"}, True)
            return
        answer: dict[str, Any] = {"url": f"{huggingface_hub.constants.ENDPOINT}/{MODEL}", "id": MODEL}
        last = path.rpartition("/")[2]
        if path == "/api/repos/create":
            self.hub.private = bool(json.loads(data).get("private"))
        elif "/branch/" in path:
            self.hub.branches.append(last)
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(data)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in path:
            self.hub.commit([json.loads(line) for line in data.splitlines()], last)
            answer = {"commitUrl": f"{huggingface_hub.constants.ENDPOINT}/{MODEL}/commit/{COMMIT}", "commitOid": COMMIT}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{MODEL}"):
            rest = path.removeprefix(f"/api/models/{MODEL}").strip("/")
            info = self.hub.info()
            listing = [
                {"type": "file", "path": f["rfilename"], "oid": f["blobId"], "size": f["size"]}
                | {"lfs": {"oid": f["lfs"]["sha256"], **f["lfs"]}}
                for f in info["siblings"]
            ]
            data = json.dumps(listing if rest.startswith("tree") else info).encode()
            self._send(200, data, {"Content-Type": "application/json"}, body)
            return
        name = path.rpartition("/")[2]
        file = self.hub.folder / name
        if not path.startswith(f"/{MODEL}/resolve/") or not file.is_file():
            self._send(404, b"", {"X-Error-Code": "RepoNotFound" if MODEL not in path else "EntryNotFound"}, body)
            return
        if self.hub.gated:
            self._send(401, b"", {"X-Error-Code": "GatedRepo"}, body)
            return
        if name in self.hub.broken:
            self._send(403, b"", {}, body)
            return
        data, headers = file.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(file)}"'}
        if body and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            self._send(206, part, headers, body)
            return
        if body:
            self.hub.fetched.append(name)
        self._send(200, data, headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
