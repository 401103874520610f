"""The HTTP client: whose words an error carries, and what cannot be sent."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from lorecall.adapters.core.errors import ScorerError, UsageError
from lorecall.audit.scorers.http_client import HttpClient, RequestRefusedError

SAID = {"error": {"message": "no adapter 'x'", "type": "invalid_request_error", "code": "adapter_not_found"}}


def answering(status: int, body: object) -> HttpClient:
    """A client whose server always gives one answer."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, json=body))
    return HttpClient("http://server", transport=transport)


def test_a_refusal_carries_the_servers_message_where_no_text_was_sent() -> None:
    """`call` quotes the server, `ask` names type and code only."""
    with answering(404, SAID) as client:
        with pytest.raises(RequestRefusedError, match="no adapter 'x'"):
            client.call("GET", "/v1/adapters/x")
        with pytest.raises(ScorerError, match="adapter_not_found") as caught:
            client.ask("GET", "/v1/adapters/x")
    assert "'x'" not in str(caught.value)


@pytest.mark.parametrize("body", [SAID, {"error": None}, "down"])
def test_a_failing_server_is_no_usage_error(body: object) -> None:
    """A status from 500 on is the server's failure, with a message or without."""
    with answering(502, body) as client, pytest.raises(ScorerError):
        client.call("GET", "/v1/adapters")


def test_an_answer_that_is_no_object_breaks_the_contract() -> None:
    """A list, or no JSON at all, is refused."""
    with answering(200, []) as client, pytest.raises(ScorerError):
        client.call("GET", "/v1/adapters")


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    """Nothing is sent."""
    with answering(200, {}) as client, pytest.raises(UsageError, match="cannot be read"):
        client.upload("/v1/adapters/x/archive", tmp_path / "missing.zip")


@pytest.mark.parametrize("server", ["localhost:8000", "", "ftp://server", "http://server:port"])
def test_what_is_no_url_is_refused(server: str) -> None:
    """A URL needs http or https, and a port that is a number."""
    with pytest.raises(UsageError, match="not a server's URL"):
        HttpClient(server)


def test_a_base_url_may_end_in_v1() -> None:
    """As OpenAI's clients write it."""
    assert HttpClient("http://server/v1/").server == "http://server"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, _file: client.ask("POST", "/v1/score", {"items": [1]}),
        lambda client, _file: client.call("POST", "/v1/adapters", {"name": "x"}),
        lambda client, file: client.upload("/v1/adapters/x/archive", file),
    ],
    ids=["ask", "call", "upload"],
)
def test_a_limited_request_waits_its_turn(
    ask: Callable[[HttpClient, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 is asked again after the seconds that it names, as often as it takes; the same body is sent."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    answers = iter([("7", 429), ("64", 429), ("", 200)])
    bodies = []
    (tmp_path / "a.zip").write_bytes(b"archive")

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        after, status = next(answers)
        return httpx.Response(status, json={"done": True}, headers={"Retry-After": after})

    with HttpClient("http://server", transport=httpx.MockTransport(answer)) as client:
        assert ask(client, tmp_path / "a.zip") == {"done": True}
    assert slept == [7, 64]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert bodies[0]


@pytest.mark.parametrize("after", ["", "0", "-1", "soon", "301", "Wed, 21 Oct 2026 07:28:00 GMT", "²"])
def test_a_wait_that_is_none_or_too_long_is_an_error(after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever, nor asks without a pause."""
    monkeypatch.setattr("time.sleep", lambda _seconds: pytest.fail("waited"))
    error = {"error": {"message": "over", "type": "invalid_request_error", "code": "rate_limited"}}
    headers = [(b"Retry-After", after.encode())]
    transport = httpx.MockTransport(lambda _request: httpx.Response(429, json=error, headers=headers))
    client = HttpClient("http://server", transport=transport)
    with client, pytest.raises(ScorerError, match="rate_limited"):
        client.ask("POST", "/v1/score", {})
