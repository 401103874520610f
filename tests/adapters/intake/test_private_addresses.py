"""No address that a caller names makes the server connect to anything but the operator's own endpoints."""

import socket
from typing import Any

import pytest
from lorecall.adapters.access.source_list import NEVER, SourceList
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.intake import download
from lorecall.adapters.intake.sources import Sources

from tests.hub import Hub

PRIVATE = (
    "127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1",
    "[::1]", "[fd00::1]", "[fe80::1]", "[::ffff:169.254.169.254]", "2852039166", "0x7f000001", "127.1",
    "metadata.google.internal", "evil.example",
)  # fmt: skip
SHAPES = (
    "http://{}/latest/meta-data", "https://{}/adapter.zip", "s3://{}/acme", "s3://{}:80/acme", "s3://x@{}/acme",
    "s3://bucket@{}/acme", "s3://{}#/acme", "s3://{}?x/acme", "s3://{}%2f/acme", "s3://a.{}/acme", "hf://{}/acme",
    "hf://{}@x/acme", "hf://x@{}/acme", "hf://x/{}@{}", "hf://acme/x@{}/y", "hf://buckets/{}/x",
    "s3://arn:aws:s3:{}:1:accesspoint/x/y", "s3://arn:aws:s3-outposts:us-east-1:1:outpost/{}/accesspoint/x/y",
    "ftp://{}/x", "sftp://{}/x", "smb://{}/x", "webhdfs://{}/x", "github://{}:x@y/z", "local:///{}", "file://{}/x",
    "simplecache::http://{}/x", "zip://x::https://{}/x.zip", "reference://{}", "//{}/x", "http:{}",
)  # fmt: skip


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that this process tries to connect to from now on, and the names that it asks for."""
    seen: list[Any] = []
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def connecting(self: socket.socket, address: Any) -> None:
        seen.append(address)
        connect(self, address)

    def looking_up(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        seen.append((host, port))
        return lookup(host, port, *rest, **named)

    monkeypatch.setattr(socket.socket, "connect", connecting)
    monkeypatch.setattr(socket, "getaddrinfo", looking_up)
    return seen


def test_sources_lead_to_the_operators_endpoints_only(
    sources: Sources,
    hub: Hub,
    s3_options: dict[str, Any],
    connections: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever host a source seems to name, the hub and S3 are asked, or nobody."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.options["endpoint"])  # as HF_ENDPOINT would
    operators = {hub.server_port, int(s3_options["endpoint_url"].rpartition(":")[2])}
    asked = 0
    for shape in SHAPES:
        for host in PRIVATE:
            with pytest.raises(RefusedError), sources.fetched(shape.replace("{}", host)):
                pytest.fail("it was fetched")
            assert {(address[0], int(address[1])) for address in connections} <= {
                ("127.0.0.1", port) for port in operators
            }, shape
            asked += bool(connections)
            connections.clear()
    assert asked, "the watch sees connections"


@pytest.mark.parametrize("scheme", sorted(NEVER))
def test_no_operator_allows_http_by_mistake(scheme: str) -> None:
    """HTTP is no scheme for sources: a redirect or a name's new address would lead to any private one."""
    for entry in (f"{scheme}://", f"{scheme}://*", f"{scheme}://example.org/adapters/"):
        with pytest.raises(UsageError, match="not read from"):
            SourceList((entry,))


def test_the_watch_sees_a_connection(connections: list[Any]) -> None:
    """A test that sees nothing would prove nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()[:2]).close()
        assert server.getsockname() in connections
