"""A name moves between versions under load: no error, no mixture, and the old version really leaves."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server.pair import wait_for
from tests.server.served import Served

pytestmark = pytest.mark.engine

PROMPTS = ("To be, or", "the slings and arrows", "whether 'tis nobler", "a sea of troubles")
TOKENS = 12
CLOSE = 0.2
"""Largest difference of log-probabilities (nats) that batching may make; the versions differ by more."""


@dataclass(frozen=True)
class Answer:
    """One streamed completion: its token ids and their log-probabilities."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def stream(served: Served, model: str, prompt: str) -> Answer:
    """Stream one completion; an HTTP error or an error event fails the test."""
    ids: list[int] = []
    logprobs: list[float] = []
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    with served.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            for choice in event["choices"]:
                ids += choice["token_ids"] or []
                logprobs += choice["logprobs"]["token_logprobs"]
    return Answer(tuple(ids), tuple(logprobs))


def scored(served: Served, model: str, prompt: str, ids: tuple[int, ...]) -> tuple[float, ...]:
    """Return the log-probability of each token of an answer, as a version says it, teacher-forced."""
    start = tuple(served.post("/tokenize", {"model": served.base, "prompt": prompt}).json()["tokens"])
    body = {"model": model, "prompt": [*start, *ids], "max_tokens": 1, "prompt_logprobs": 0}
    rows = served.post("/v1/completions", body).json()["choices"][0]["prompt_logprobs"]
    return tuple(next(iter(row.values()))["logprob"] for row in rows[len(start) :])


def matches(answer: Answer, expected: tuple[float, ...]) -> bool:
    """Whether an answer's log-probabilities are, token for token, those that a version gives."""
    return max(abs(a - b) for a, b in zip(answer.logprobs, expected, strict=True)) < CLOSE


def under_swaps(
    served: Served, name: str, paths: list[Path], *, requests: int, swaps: int, pause: float
) -> None:
    """Swap a name while clients stream from it, and hold every answer against the versions."""
    versions = []
    for number, path in enumerate(paths):
        reference = f"{name}-v{number}"
        assert served.post("/v1/adapters", {"name": reference, "source": str(path)}).status_code == 201
        versions.append(reference)
    assert served.post("/v1/adapters", {"name": name, "source": str(paths[0])}).status_code == 201
    stop = threading.Event()
    errors: list[str] = []
    done = 0

    def swap() -> None:
        nonlocal done
        while done < swaps or not stop.is_set():
            done += 1
            if done % 5 == 0:
                answer = served.http.post(f"/v1/adapters/{name}/rollback")
            else:
                source = str(paths[done % len(paths)])
                answer = served.post("/v1/adapters", {"name": name, "source": source})
            if not answer.is_success:
                errors.append(answer.text)
            time.sleep(pause)

    swapper = threading.Thread(target=swap)
    swapper.start()
    with ThreadPoolExecutor(8) as pool:
        asked = [PROMPTS[number % len(PROMPTS)] for number in range(requests)]
        answers = list(pool.map(lambda prompt: stream(served, name, prompt), asked))
    stop.set()
    swapper.join()
    assert not errors
    check_answers(served, versions, list(zip(asked, answers, strict=True)))
    for model in (name, *versions):
        served.http.delete(f"/v1/adapters/{model}")


def check_answers(served: Served, versions: list[str], answers: list[tuple[str, Answer]]) -> None:
    """Each answer is that of exactly one version, and both versions have answered."""
    known: dict[tuple[str, tuple[int, ...]], list[tuple[float, ...]]] = {}
    seen = set()
    for prompt, answer in answers:
        assert len(answer.ids) == TOKENS
        key = (prompt, answer.ids)
        if key not in known:
            known[key] = [scored(served, version, prompt, answer.ids) for version in versions]
        fits = [number for number, expected in enumerate(known[key]) if matches(answer, expected)]
        assert len(fits) == 1, (prompt, answer, known[key])
        seen.add(fits[0])
    assert seen == set(range(len(versions)))


def test_swaps_under_streaming_load(served: Served, int8_adapters: list[Path]) -> None:
    """10 swaps under 100 concurrent streams: 0 errors, and every answer is one version's from end to end."""
    under_swaps(served, "swapped", int8_adapters[:2], requests=100, swaps=10, pause=0.5)
    assert served.alive


@pytest.mark.soak
def test_swaps_under_streaming_load_for_long(served: Served, int8_adapters: list[Path]) -> None:
    """1,000 streams and at least 50 swaps, one a second."""
    under_swaps(served, "soaked", int8_adapters[:2], requests=1000, swaps=50, pause=1.0)
    assert served.alive


def test_a_running_stream_finishes_on_its_version(served: Served, int8_adapters: list[Path]) -> None:
    """A stream begun before a swap is the old version's to its end; only then the old version is removed."""
    assert served.post("/v1/adapters", {"name": "held", "source": str(int8_adapters[0])}).status_code == 201
    body = {"model": "held", "prompt": "To be", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with served.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert (
            served.post("/v1/adapters", {"name": "held", "source": str(int8_adapters[1])}).status_code == 201
        )
        assert served.http.get("/v1/adapters/held").json()["rank"] == 4
        assert served.draining == 1
        events = [line for line in lines if line.startswith("data: {")]
    assert "error" not in "".join(events)
    assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert wait_for(lambda: served.draining == 0, 30)
    served.http.delete("/v1/adapters/held")


def test_a_removed_name_is_gone_at_once_and_its_stream_finishes(
    served: Served, int8_adapters: list[Path]
) -> None:
    """After DELETE new requests get 404, while what runs finishes and then frees the engine."""
    assert served.post("/v1/adapters", {"name": "leaving", "source": str(int8_adapters[0])}).is_success
    body = {"model": "leaving", "prompt": "To be", "max_tokens": 300, "ignore_eos": True}
    with served.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert served.http.delete("/v1/adapters/leaving").json()["state"] == "retired"
        assert served.post("/v1/completions", body).status_code == 404
        events = [line for line in lines if line.startswith("data: {")]
    assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert wait_for(lambda: served.draining == 0, 30)
