"""A server that is not there is an error with a remedy, and cleaning up after it is none."""

import socket

import pytest
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.target import Target


def closed_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_server_is_a_load_test_error() -> None:
    """The address is named; no traceback of the HTTP library reaches the user."""
    port = closed_port()
    with pytest.raises(LoadtestError, match=f"127.0.0.1:{port}") as caught:
        Target(f"http://127.0.0.1:{port}")
    assert caught.value.hint


def test_a_server_that_shows_no_path_needs_a_tokenizer(target: Target) -> None:
    """A path or a hub id is taken as the server names it."""
    assert target.tokenizer() == "/base"
    target.root = target.base
    with pytest.raises(LoadtestError, match="tokenizer") as caught:
        target.tokenizer()
    assert "--tokenizer" in caught.value.hint
