"""A request that outlives its version's drain ends with an error that says so, on every route that generates."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.pair import wait_for
from tests.server.served import Served

pytestmark = pytest.mark.engine

TOKENS = 1900
"""Many seconds of decoding, beside a drain of a tenth of one."""
MESSAGES = [{"role": "user", "content": "a"}]
"""The tiny model's likeliest answer to it has no end: /v1/messages has no `ignore_eos`."""
LONG = {"ignore_eos": True, "max_tokens": TOKENS}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "To be", **LONG},
    "/v1/chat/completions": {"messages": MESSAGES, **LONG},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": TOKENS, "temperature": 0.0},
    "/v1/responses": {"input": "To be", "max_output_tokens": TOKENS, "ignore_eos": True},
}


def put(served: Served, name: str, source: Path) -> None:
    """Add an adapter, or move its name."""
    answer = served.post("/v1/adapters", {"name": name, "source": str(source)})
    assert answer.status_code == 201, answer.text


def replaced_in_stream(served: Served, path: str, paths: list[Path]) -> list[str]:
    """Replace the version of a stream that has begun; return the lines that the stream ends with."""
    put(served, "hasty", paths[0])
    body = {"model": "hasty", "stream": True, **BODIES[path]}
    with served.http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        begun = [next(lines) for _ in range(12)]
        put(served, "hasty", paths[1])
        rest = [line for line in lines if line]
    assert "error" not in "".join(begun)
    served.http.delete("/v1/adapters/hasty")
    return rest


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_ends_with_an_error_event(guarded: Served, int8_adapters: list[Path], path: str) -> None:
    """The error in OpenAI's shape, then [DONE]; the version leaves the engine, which goes on."""
    *_, error, done = replaced_in_stream(guarded, path, int8_adapters)
    assert done == "data: [DONE]"
    said = json.loads(error.removeprefix("data: "))["error"]
    assert {"message", "type", "param", "code"} <= said.keys()
    assert said["code"] == 503
    assert "was replaced" in said["message"]
    assert "repeat the request" in said["message"]
    assert wait_for(lambda: guarded.draining == 0, 30)
    assert guarded.alive


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_other_streams_say_so_in_their_own_form(
    guarded: Served, int8_adapters: list[Path], path: str
) -> None:
    """Anthropic's and the responses' streams end with an event of the type error."""
    rest = replaced_in_stream(guarded, path, int8_adapters)
    assert "event: error" in rest, rest[-4:]
    said = json.loads(rest[rest.index("event: error") + 1].removeprefix("data: "))
    assert said["type"] == "error"
    message = said["error"]["message"] if path == "/v1/messages" else said["message"]
    assert message.startswith("the version of 'hasty'")
    assert "repeat the request" in message


def replaced_meanwhile(served: Served, path: str, body: dict[str, Any], paths: list[Path]) -> httpx.Response:
    """Send a request without streaming, and replace its version while it runs."""
    put(served, "hasty", paths[0])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.post, path, {"model": "hasty", **body})
        assert wait_for(lambda: served.http.get("/v1/adapters/hasty").json()["running"] > 0, 30)
        put(served, "hasty", paths[1])
        found = answer.result()
    served.http.delete("/v1/adapters/hasty")
    return found


@pytest.mark.parametrize("path", list(BODIES))
def test_an_answer_in_one_piece_is_a_503(guarded: Served, int8_adapters: list[Path], path: str) -> None:
    """With an error body instead of a connection that closes; the new version answers the same request."""
    answer = replaced_meanwhile(guarded, path, BODIES[path], int8_adapters)
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert "repeat the request" in error["message"]
    assert {"message", "type"} <= error.keys()


def test_many_prompts_and_scores_end_likewise(guarded: Served, int8_adapters: list[Path]) -> None:
    """A batch of prompts, and a call of /v1/score, whose texts are many requests of the engine."""
    batch: dict[str, Any] = {"prompt": ["To be", "or not", "to be"], **LONG, "n": 2}
    items = [{"id": str(i), "prefix": f"To be {i}", "target": "or not to be " * 20} for i in range(2000)]
    for path, body in {"/v1/completions": batch, "/v1/score": {"items": items}}.items():
        answer = replaced_meanwhile(guarded, path, body, int8_adapters)
        assert answer.status_code == 503, answer.text[:300]
        assert "repeat the request" in answer.json()["error"]["message"]
    assert wait_for(lambda: guarded.draining == 0, 30)
    assert wait_for(lambda: "vllm:num_requests_running{" in guarded.http.get("/metrics").text, 5)


def test_a_client_that_does_not_read_holds_nothing(guarded: Served, int8_adapters: list[Path]) -> None:
    """Its generation is aborted, its connection closed in the end, and its version leaves the engine."""
    put(guarded, "hasty", int8_adapters[0])
    body = {"model": "hasty", "stream": True, **BODIES["/v1/completions"], "logprobs": 20, "n": 8}
    with guarded.http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
        put(guarded, "hasty", int8_adapters[1])
        assert wait_for(lambda: guarded.draining == 0, 60)
    guarded.http.delete("/v1/adapters/hasty")
    assert guarded.alive
