"""A small HTTP client of a lorecall server, for the command line."""

import os
from pathlib import Path
from typing import Any

import httpx
from lorecall.adapters.core.errors import LorecallError, ScorerError, UsageError

TIMEOUT_S = 600.0


class RefusedError(UsageError):
    """The server refused: its own message, as it came."""


class Client:
    """Calls one server; the API key comes from LORECALL_API_KEY."""

    def __init__(self, server: str) -> None:
        key = os.environ.get("LORECALL_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._server = server

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer's JSON.

        Raises:
            ScorerError: If the server cannot be reached, or fails.
            RefusedError: If it refuses the request; the message is the server's.
        """
        return self._send(method, path, json=body)

    def upload(self, path: str, file: Path) -> Any:
        """POST a file's bytes, and return the answer's JSON; raises like `call`."""
        try:
            with file.open("rb") as content:
                return self._send("POST", path, content=content)
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error}", param="source") from error

    def _send(self, method: str, path: str, **body: Any) -> Any:
        try:
            with httpx.Client(base_url=self._server, headers=self._headers, timeout=TIMEOUT_S) as client:
                answer = client.request(method, path, **body)
        except httpx.InvalidURL as error:
            raise UsageError(
                f"{self._server!r} is not a URL: {error}", hint="give http://HOST:PORT"
            ) from error
        except httpx.UnsupportedProtocol as error:
            raise UsageError(f"{self._server!r} is not a URL", hint="give http://HOST:PORT") from error
        except httpx.HTTPError as error:
            raise ScorerError(
                f"{self._server} cannot be reached: {type(error).__name__}",
                hint="start it with: lorecall serve --base DIR",
            ) from error
        if answer.is_success:
            return answer.json()
        raise refusal(answer)


def refusal(answer: httpx.Response) -> LorecallError:
    """Return the exception for an answer that is an error, in OpenAI's shape or not."""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {answer.status_code} without a reason"
    if answer.status_code >= 500:
        return ScorerError(message)
    return RefusedError(message)
