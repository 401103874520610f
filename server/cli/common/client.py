"""One request of the command line to a lorecall server."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorecall.audit.scorers.http_client import HttpClient


def client_of(server: str) -> "HttpClient":
    """Return a client of a server; the API key is that of LORECALL_API_KEY."""
    from lorecall.audit.scorers.http_client import HttpClient  # httpx takes long to import

    return HttpClient(server)


def call(server: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer's JSON object.

    Raises:
        ScorerError: The server does not answer, or fails.
        RequestRefusedError: The server refuses the request; the message is the server's.
    """
    with client_of(server) as client:
        return client.call(method, path, body)
