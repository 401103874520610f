"""What our Locust users count as answered and as broken, against a server that breaks every second stream."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event, Lock
from typing import ClassVar

import pytest
from lorecall.loadtest.background import background, plan
from lorecall.loadtest.scenario import Adapters, Audit, Churn, Flood, Scenario, Traffic
from lorecall.loadtest.target import Target

from tests.loadtest.conftest import target_over

SCENARIO = Scenario(
    "all",
    "",
    Adapters(2),
    Traffic(1, 1, 1, 1),
    churn=Churn(pause_s=0),
    audit=Audit(pause_s=0.01, texts=3),
    flood=Flood(clients=2, output_tokens=6, pause_s=0),
)
TURNS = 4


class Breaking(BaseHTTPRequestHandler):
    """Loads and unloads everything; ends every second stream without its `[DONE]`; scores nothing."""

    lock: ClassVar[Lock] = Lock()
    streams: ClassVar[int] = 0
    removed: ClassVar[int] = 0
    flood: ClassVar[list[tuple[str, int]]] = []
    done: ClassVar[Event] = Event()

    def do_GET(self) -> None:
        """List a base, and say that there is no `/v1/engine`: a stock server."""
        models = [{"id": "base", "root": "/base", "parent": None}]
        known = self.path == "/v1/models"
        self._answer(200 if known else 404, json.dumps({"data": models}))

    def do_POST(self) -> None:
        """Answer as a stock server would."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/unload_lora_adapter":
            with self.lock:
                Breaking.removed += 1
                if self.removed > TURNS:
                    self.done.set()
        if self.path == "/v1/completions" and not body.get("stream") and not body.get("echo"):
            self.flood.append((body["model"], body["max_tokens"]))
        if not body.get("stream"):
            return self._answer(500 if body.get("echo") else 200, "{}")
        with self.lock:
            Breaking.streams += 1
            end = "data: [DONE]\n\n" if self.streams % 2 else ""
        return self._answer(200, 'data: {"choices": []}\n\n' + end)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def breaking() -> Iterator[Target]:
    """A target over such a server."""
    with target_over(Breaking) as found:
        yield found


def test_a_stream_without_its_end_is_broken(breaking: Target, tmp_path: Path) -> None:
    """A stream counts as answered only with its `[DONE]`; a failed scoring call has scored no text."""
    planned = plan(SCENARIO, breaking, ["a", "b"], [tmp_path])
    with background(planned, breaking, tmp_path) as done:
        assert Breaking.done.wait(60)
    streams = [one for one in done if one.name == "stream"]
    broken = [one for one in streams if one.error]
    assert abs(len(streams) - 2 * len(broken)) <= 1
    assert len(broken) >= TURNS // 2
    assert all("did not come to its end" in one.error for one in broken)
    audits = [one for one in done if one.name == "audit"]
    assert audits
    assert {(bool(one.error), one.texts) for one in audits} == {(True, 0)}
    assert {one.name for one in done} == {"add", "swap", "remove", "stream", "audit", "flood"}
    assert not [one.error for one in done if one.name in {"add", "swap", "remove", "flood"} and one.error]
    assert {model for model, _ in Breaking.flood} == {"a"}
    assert {tokens for _, tokens in Breaking.flood} == {3, 4, 5, 6}
