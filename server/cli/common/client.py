"""One request of the command line to a lorecall server."""

from typing import Any

from lorecall.audit.scorers.http_client import HttpClient


def call(server: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer's JSON object; the API key is that of LORECALL_API_KEY.

    Raises:
        ScorerError: The server does not answer, or fails.
        RequestRefusedError: The server refuses the request; the message is the server's.
    """
    with HttpClient(server) as client:
        return client.call(method, path, body)
