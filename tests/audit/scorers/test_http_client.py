"""The HTTP client: whose words an error carries, and what cannot be sent."""

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
