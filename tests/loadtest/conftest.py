"""A server that lists models, for tests whose subject is not the server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from lorecall.loadtest.target import Target


class Models(BaseHTTPRequestHandler):
    """Answers `/v1/models`, the one route that a target is made from."""

    def do_GET(self) -> None:
        """List a base and an adapter."""
        models = [{"id": "base", "root": "/base", "parent": None}, {"id": "a", "root": "a", "parent": "base"}]
        body = json.dumps({"data": models}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def target_over(handler: type[BaseHTTPRequestHandler]) -> Iterator[Target]:
    """A target whose server answers as a handler does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        with Target(f"http://127.0.0.1:{server.server_port}/") as found:
            yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def target() -> Iterator[Target]:
    """A target whose server lists models and does nothing else."""
    with target_over(Models) as found:
        yield found
