"""A stand-in for the Hugging Face hub on loopback: the part of its HTTP interface that reading files uses."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Hub(ThreadingHTTPServer):
    """Serves `files` (content by path) as the model repository `repository`, at every revision in `revisions`.

    What it has told somebody the commit of stays in `commits`, also when `files` change afterwards.
    """

    daemon_threads = True

    def __init__(self, repository: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.revisions = {"main"}
        self.files: dict[str, bytes] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    def commit(self) -> str:
        """Return the commit of the present files."""
        content = repr(sorted(self.files.items())).encode()
        sha = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self.commits[sha] = dict(self.files)
        return sha

    def at(self, revision: str) -> dict[str, bytes] | None:
        """Return the files at a revision; None if there is no such."""
        return self.commits[self.commit()] if revision in self.revisions else self.commits.get(revision)

    @property
    def options(self) -> dict[str, Any]:
        """Storage options of `HfFileSystem` for this hub."""
        return {"endpoint": f"http://127.0.0.1:{self.server_port}", "token": False}


@contextmanager
def running_hub(repository: str) -> Iterator[Hub]:
    """A hub for the time of the block."""
    with Hub(repository) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        """Answer about the repository, list its files, or give bytes of one."""
        path = urlsplit(self.path).path
        self.server.requests.append(f"{path} {self.headers.get('range', '')}".strip())
        api, tree, resolve = (
            f"/api/models/{self.server.repository}",
            f"/api/models/{self.server.repository}/tree/",
            f"/{self.server.repository}/resolve/",
        )
        if path.startswith(tree) and (files := self.server.at(path.removeprefix(tree))) is not None:
            self._json([self._entry(name, content) for name, content in files.items()])
        elif path == api or path.startswith(f"{api}/revision/"):
            self._about(path.removeprefix(api).removeprefix("/revision/") or "main")
        elif path.startswith(resolve):
            revision, _, name = path.removeprefix(resolve).partition("/")
            self._bytes((self.server.at(revision) or {})[name])
        else:
            self._missing("RepoNotFound")

    def _about(self, revision: str) -> None:
        if self.server.at(revision) is None:
            self._missing("RevisionNotFound")
        else:
            sha = self.server.commit() if revision in self.server.revisions else revision
            self._json({"id": self.server.repository, "sha": sha, "siblings": []})

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _bytes(self, content: bytes) -> None:
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        self._send(206, content[int(first) : int(last) + 1], "application/octet-stream")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
