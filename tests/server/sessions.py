"""Callers that go on asking one name, each with a session of its own, and what they were answered."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

ITEM = {"id": "1", "prefix": "To be, or", "target": " not to be"}
LIMIT_S = 120
WHOLE = ("length", "stop")


@dataclass
class Session:
    """One caller.

    Attributes:
        name: Its session.
        versions: The version that answered, request by request.
        failures: What was no whole answer, after the caller's last try.
        tries: How many requests were sent.
        pause: Seconds that it waits between two requests; may be changed while it asks.
    """

    name: str
    pause: float = 0.0
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    tries: int = 0

    @property
    def changes(self) -> list[str]:
        """The versions that answered, each once for every time that it came."""
        return [
            one for number, one in enumerate(self.versions) if not number or one != self.versions[number - 1]
        ]


def scored(http: httpx.Client, model: str) -> str:
    """Score a text; return the version that answered.

    Raises:
        ValueError: There is no whole answer.
    """
    answer = http.post("/v1/score", json={"model": model, "items": [ITEM]})
    if not answer.is_success:
        raise ValueError(f"{answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["version"])


def generated(http: httpx.Client, model: str) -> str:
    """Generate a text; return "" for the version, which the answer does not name.

    Raises:
        ValueError: There is no whole answer.
    """
    body = {"model": model, "prompt": "To be", "max_tokens": 24, "ignore_eos": True}
    answer = http.post("/v1/completions", json=body)
    ended = answer.json()["choices"][0]["finish_reason"] if answer.is_success else ""
    if ended not in WHOLE:
        raise ValueError(f"{answer.status_code}: {answer.text[:300]}")
    return ""


@contextmanager
def slowly(callers: Sequence[Session]) -> Iterator[None]:
    """Make callers ask seldom while the block runs: an engine that is asked takes the cores of another start."""
    for one in callers:
        one.pause = 2.0 * len(callers)
    yield
    for one in callers:
        one.pause = 0.0


@contextmanager
def asking(
    url: str,
    key: str,
    model: str,
    sessions: int,
    ask: Callable[[httpx.Client, str], str],
    *,
    tries: int = 1,
) -> Iterator[list[Session]]:
    """Ask again and again while the block runs; every session has an answer before it begins.

    Args:
        url: Of the router.
        key: The API key.
        model: The adapter's name.
        sessions: How many callers.
        ask: What each does again and again.
        tries: How often a caller sends a request that failed before it counts as lost.
    """
    callers, over = [Session(f"s{number}") for number in range(sessions)], threading.Event()
    begun = threading.Barrier(sessions + 1, timeout=LIMIT_S)

    def go_on(session: Session) -> None:
        headers = {"Authorization": f"Bearer {key}", "X-Session-ID": session.name}
        with httpx.Client(base_url=url, headers=headers, timeout=LIMIT_S) as http:
            _answered(session, http, model, ask, tries)
            begun.wait()
            while not over.wait(session.pause):
                _answered(session, http, model, ask, tries)

    with ThreadPoolExecutor(sessions) as pool:
        running = [pool.submit(go_on, one) for one in callers]
        try:
            begun.wait()
            yield callers
        finally:
            over.set()
    for one in running:
        one.result()


def _answered(
    session: Session, http: httpx.Client, model: str, ask: Callable[[httpx.Client, str], str], tries: int
) -> None:
    """Send one request, again where it failed, and note how it ended."""
    for number in range(tries):
        session.tries += 1
        try:
            session.versions.append(ask(http, model))
        except (httpx.TransportError, ValueError) as error:
            if number == tries - 1:
                session.failures.append(repr(error))
            time.sleep(min(2.0, 0.1 * 2**number))
        else:
            return
