"""The one HTTP client of a server: its API key, timeouts, retries and errors."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlencode

import httpx
from lorecall.adapters.core.errors import LorecallError, ScorerError, UsageError

API_KEY_VARIABLE = "LORECALL_API_KEY"
TIMEOUT_S = 600.0
CONNECT_S = 10.0
CONNECT_RETRIES = 3
WAIT_S = 300
"""The longest that a request waits for its turn under the server's rate limits, in seconds."""


class RequestRefusedError(UsageError):
    """The server refused a request; the message is the server's own."""


class HttpClient:
    """Sends requests to one server; connecting is retried, a request that was sent is not.

    Args:
        server: Base URL of the server, with or without `/v1`.
        api_key: Sent as a bearer token; by default the environment variable LORECALL_API_KEY.
        timeout: Seconds to wait for one answer.
        transport: Replaces the network, for an in-process application.

    Raises:
        UsageError: The URL cannot be used.
    """

    def __init__(
        self,
        server: str,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.server = server.rstrip("/").removesuffix("/v1")
        key = os.environ.get(API_KEY_VARIABLE, "") if api_key is None else api_key
        if not _is_url(server):
            raise UsageError(
                f"not a server's URL: {server!r}", hint="such as http://localhost:8000", param="server"
            )
        self._http = httpx.Client(
            base_url=self.server,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_S),
            transport=transport or httpx.HTTPTransport(retries=CONNECT_RETRIES),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Return the server's answer, whatever its status.

        Args:
            method: The HTTP method.
            path: The path below the base URL.
            content: The body, as httpx takes it: `json` or `content`; and `headers`.

        Raises:
            ScorerError: There is no answer.
        """
        try:
            return self._http.request(method, path, **content)
        except httpx.ConnectError as error:
            raise ScorerError(
                f"no server answers at {self.server}",
                hint="start one with `lorecall serve`, or name the right one with --server",
                param="server",
            ) from error
        except httpx.TimeoutException as error:
            raise ScorerError(
                f"{self.server}{path} did not answer in time",
                hint="try again; for an audit, raise --timeout or lower --batch",
            ) from error
        except httpx.HTTPError as error:
            raise ScorerError(f"{method} {path} broke off: {type(error).__name__}") from error

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer's JSON object, after waiting for the server's rate limits.

        Errors are those of `send` and of `read_json`, without any text.
        """
        return read_json(_in_turn(lambda: self.send(method, path, json=body)))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer's JSON object, after waiting for the server's rate limits; an error has its words.

        The words of a lorecall server quote nothing of a body; those of another server may.

        Raises:
            ScorerError: The server does not answer, or fails.
            RequestRefusedError: The server refuses the request; the message is the server's.
        """
        return _answer(_in_turn(lambda: self.send(method, path, json=body)))

    def adapters(self, after: str = "", contains: str = "") -> Iterator[dict[str, Any]]:
        """Yield what the server lists of its adapters, page by page: objects with a `name`; errors as for `ask`.

        Args:
            after: Only those whose names follow this one.
            contains: Only those whose names contain this.
        """
        more = True
        while more:
            query = urlencode({k: v for k, v in {"after": after, "contains": contains}.items() if v})
            answer = self.ask("GET", f"/v1/adapters?{query}" if query else "/v1/adapters")
            listed = answer.get("adapters")
            if not isinstance(listed, list) or not all(
                isinstance(one, dict) and "name" in one for one in listed
            ):
                raise broken("/v1/adapters", "no list of adapters with names")
            yield from listed
            more = bool(listed) and answer.get("has_more") is True
            after = str(listed[-1]["name"]) if more else after

    def upload(self, path: str, file: Path, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """POST a file's bytes, and return the answer's JSON object; raises like `call`."""
        try:
            return _answer(_in_turn(lambda: self._send_file(path, file, headers)))
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error}", param="source") from error

    def _send_file(self, path: str, file: Path, headers: Mapping[str, str] | None) -> httpx.Response:
        with file.open("rb") as content:
            return self.send("POST", path, content=content, headers=headers)


def _in_turn(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Return an answer, after waiting as long as the server's rate limits ask for."""
    answer = send()
    while answer.status_code == HTTPStatus.TOO_MANY_REQUESTS and 0 < seconds_to_wait(answer) <= WAIT_S:
        time.sleep(seconds_to_wait(answer))  # it was refused before anything was done
        answer = send()
    return answer


def seconds_to_wait(answer: httpx.Response) -> int:
    """Return an answer's `Retry-After`, if that is a number of seconds; 0 otherwise."""
    stated = answer.headers.get("Retry-After", "")
    return int(stated) if stated.isascii() and stated.isdigit() else 0


def _is_url(server: str) -> bool:
    try:
        return httpx.URL(server).scheme in ("http", "https")
    except httpx.InvalidURL:
        return False


def _answer(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise _refusal(response)
    return read_json(response)


def _refusal(response: httpx.Response) -> LorecallError:
    """Return the exception for an answer that is an error, in OpenAI's shape or not."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code} without a reason"
    return ScorerError(message) if response.status_code >= 500 else RequestRefusedError(message)


def read_json(response: httpx.Response) -> dict[str, Any]:
    """Return an answer's JSON object.

    Raises:
        UsageError: The server refused the API key.
        ScorerError: The answer is an error or no JSON object. The message names status, type and field; the
            server's own message could quote a candidate's text.
    """
    url = response.request.url
    if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise UsageError(
            f"{url.scheme}://{url.netloc.decode()} refused the API key (HTTP {response.status_code})",
            hint=f"set {API_KEY_VARIABLE} to the server's key",
        )
    try:
        answer = response.json()
    except ValueError as error:
        raise broken(url.path, f"HTTP {response.status_code} without JSON") from error
    if response.is_success and isinstance(answer, dict):
        return cast("dict[str, Any]", answer)
    problem = answer.get("error") if isinstance(answer, dict) else None
    detail = ", ".join(
        f"{name} {problem[name]}"
        for name in ("type", "code", "param")
        if isinstance(problem, dict) and problem.get(name)
    )
    raise ScorerError(
        f"{url.path} answered HTTP {response.status_code}{f' ({detail})' if detail else ''}",
        hint="the server's log says more",
    )


def broken(path: str, what: str) -> ScorerError:
    """Return the error for an answer that is not what the route's contract says."""
    return ScorerError(f"{path} did not answer as its contract says: {what}")
