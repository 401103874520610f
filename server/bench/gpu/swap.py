"""Streams while their adapter is swapped: each must come from one version, whichever it is.

Batches differ from step to step, so on a GPU two tokens that are nearly tied may change places. Hence an answer
is not compared with an expected text. Afterwards both versions are asked for the log-probabilities of its tokens:
it is a version's own if each token was that version's first choice, or tied with it.
"""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.bench.gpu.setting import Setting, Sizes
from lorecall.server.bench.lora import RANK
from lorecall.server.bench.material import random_prompts, write_random_adapter
from lorecall.server.bench.processes.serving import HttpServer

NAME = "swapped"
VERSIONS = ("first", "second")
PROMPT, PROMPTS = 16, 8
SCALE = 0.2
"""Standard deviation of the factors: so large that two versions do not answer alike."""

TIED = 0.5
"""Nats by which a token may be behind the first choice and still count as tied with it."""

Stream = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of what was streamed for it."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """What came of the streams.

    Attributes:
        streams: How many ended.
        swaps: How many swaps were made meanwhile.
        by: How many are the first version's own, the second's, and both's.
        mixed: How many are neither's: some tokens are of one version and some of the other.
    """

    streams: int
    swaps: int
    by: tuple[int, int, int]
    mixed: int

    def as_markdown(self) -> list[str]:
        """Return the lines of a table."""
        first, second, both = self.by
        return [
            "| streams | swaps meanwhile | first version | second version | both alike | mixed |",
            "|---|---|---|---|---|---|",
            f"| {self.streams} | {self.swaps} | {first} | {second} | {both} | {self.mixed} |",
        ]


def swap(setting: Setting) -> None:
    """Stream from one name while it is moved between two versions; write the page.

    Raises:
        LorecallError: A stream is mixed, or no swap was made.
    """
    base = setting.base("speed")
    sources = [
        str(write_random_adapter(setting.work / f"swap-{name}", base, RANK, seed, scale=SCALE))
        for seed, name in enumerate(VERSIONS, 1)
    ]
    server = setting.servers(
        base, {"ours": False}, "--enable-lora", "--max-loras", "8", "--max-lora-rank", str(RANK)
    )["ours"]
    try:
        prompts = random_prompts(PROMPTS, PROMPT, 17, setting.vocabulary(base))
        answers, swaps = stream_and_swap(server, prompts, sources, setting.sizes)
        for name, source in zip(VERSIONS, sources, strict=True):
            _add(server, name, source)
        behind = {
            answer: tuple(largest_gap(server, name, *answer) for name in VERSIONS) for answer in set(answers)
        }
    finally:
        server.close()
    found = judge(answers, behind, swaps)
    setting.page("swap", found.as_markdown())
    if found.mixed or not swaps:
        raise LorecallError(f"{found.mixed} of {found.streams} streams are mixed; {swaps} swaps were made")


def stream_and_swap(
    server: HttpServer, prompts: Sequence[list[int]], sources: Sequence[str], sizes: Sizes
) -> tuple[list[Stream], int]:
    """Return what was streamed, and how many swaps were made from the first stream to the last."""
    _add(server, NAME, sources[0])
    ended = threading.Event()

    def keep_swapping() -> int:
        count = 0
        while not ended.is_set():
            count += 1
            _add(server, NAME, sources[count % len(sources)])
        return count

    with ThreadPoolExecutor(1) as swapper, ThreadPoolExecutor(sizes.concurrent) as clients:
        swaps = swapper.submit(keep_swapping)
        try:
            asked = (prompts[number % len(prompts)] for number in range(sizes.streams))
            answers = list(clients.map(lambda ids: _stream(server, ids, sizes.generate), asked))
        finally:
            ended.set()
        return answers, swaps.result()


def judge(answers: Sequence[Stream], behind: dict[Stream, tuple[float, ...]], swaps: int) -> Swapped:
    """Return whose the answers are.

    Args:
        answers: What was streamed.
        behind: How far, for each answer, its worst token is behind the first choice of either version.
        swaps: How many swaps were made.
    """
    kinds = [tuple(gap <= TIED for gap in behind[answer]) for answer in answers]
    own = (kinds.count((True, False)), kinds.count((False, True)), kinds.count((True, True)))
    return Swapped(len(answers), swaps, own, kinds.count((False, False)))


def largest_gap(server: HttpServer, name: str, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> float:
    """Return by how many nats the worst of some tokens is behind the first choice of a version."""
    body = {"model": name, "prompt": [*prompt, *tokens], "max_tokens": 1, "prompt_logprobs": 1}
    answer = server.http.post("/v1/completions", json=body)
    answer.raise_for_status()
    rows = answer.json()["choices"][0]["prompt_logprobs"][len(prompt) :]
    gaps = (
        max(float(one["logprob"]) for one in row.values()) - float(row[str(token)]["logprob"])
        for row, token in zip(rows, tokens, strict=True)
    )
    return max(gaps)


def _add(server: HttpServer, name: str, source: str) -> None:
    server.http.post("/v1/adapters", json={"name": name, "source": source}).raise_for_status()


def _stream(server: HttpServer, prompt: list[int], generate: int) -> Stream:
    """Stream one answer; return its prompt and token ids.

    Raises:
        LorecallError: It ended early.
    """
    body = {"model": NAME, "prompt": prompt, "max_tokens": generate, "temperature": 0, "ignore_eos": True}
    tokens: list[int] = []
    with server.http.stream(
        "POST", "/v1/completions", json={**body, "stream": True, "return_token_ids": True}
    ) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            data = line.removeprefix("data: ")
            if line.startswith("data: ") and data != "[DONE]":
                chunk = json.loads(data)
                if "error" in chunk:
                    raise LorecallError(f"a stream ended with {chunk['error']}")
                for choice in chunk["choices"]:
                    tokens += choice.get("token_ids") or []
    if len(tokens) != generate:
        raise LorecallError(f"a stream of {generate} tokens ended after {len(tokens)}")
    return tuple(prompt), tuple(tokens)
