"""Benchmark of scoring: `/v1/score` against its limit, and against other ways to the same numbers.

The limit is the time of plain prefill of the same texts (`max_tokens=1`, no log-probabilities) plus the time of
the bare `lm_head` product on the target rows. Peers are `/v1/completions` with `echo` and `logprobs=1` on the
same server, and lm-evaluation-harness's `local-completions` log-likelihood where it is installed.
"""

import importlib.util
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.server.bench.material import VOCABULARY, random_prompts
from lorecall.server.bench.paired import Row, compare, measure
from lorecall.server.bench.processes.memory import worker_mib
from lorecall.server.bench.processes.serving import HttpServer

ITEMS = 24
PREFIX_WORDS = 60
TARGET_WORDS = 40
FLAGS = ("--max-model-len", "8192", "--no-enable-prefix-caching", "--max-num-seqs", "64")


@dataclass(frozen=True, slots=True)
class Texts:
    """The items to score, as text and as token ids.

    Attributes:
        pairs: (prefix, target) of each item.
        ids: Token ids of prefix and target together.
        target_tokens: Target tokens of all items.
    """

    pairs: list[tuple[str, str]]
    ids: list[list[int]]
    target_tokens: int


def make_texts(base: Path, seed: int = 7, items: int = ITEMS) -> Texts:
    """Return random texts whose tokenization has its boundary between prefix and target."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs, ids, tokens = [], [], 0
    for words in random_prompts(items, PREFIX_WORDS + TARGET_WORDS, seed, VOCABULARY):
        text = [f" w{number % 9973}" for number in words]
        prefix, target = "".join(text[:PREFIX_WORDS]), "".join(text[PREFIX_WORDS:])
        pairs.append((prefix, target))
        target_ids = tokenizer.encode(target, add_special_tokens=False)
        ids.append(tokenizer.encode(prefix) + target_ids)
        tokens += len(target_ids)
    return Texts(pairs, ids, tokens)


def bench_scoring(base: Path, work: Path, rounds: int) -> tuple[list[Row], list[str]]:
    """Measure on one server; return the rows and what was left out."""
    texts = make_texts(base)
    server = HttpServer(base, work / "scoring.log", FLAGS, environ={"LORECALL_STORE": str(work / "store")})
    notes: list[str] = []
    try:
        variants = {
            **_limit_and_ours(server, base, texts),
            "/v1/completions echo": lambda: texts.target_tokens / _echo(server, texts),
        }
        if importlib.util.find_spec("lm_eval") is None:
            notes.append("lm-evaluation-harness is not installed here: its row is left out")
        else:
            variants["lm-eval local-completions"] = lambda: (
                texts.target_tokens / _lm_eval(server, base, texts)
            )
        rates = measure(rounds, variants)
        unit = f"target tok/s, {ITEMS} items"
        rows = [compare(rates, "/v1/score", "limit", unit, 0.90)]
        rows += [compare(rates, "/v1/score", name, unit) for name in list(variants)[2:]]
        notes.append(memory_of_a_long_text(server))
    finally:
        server.close()
    return rows, notes


def against_limit(server: HttpServer, base: Path, texts: Texts, rounds: int) -> Row:
    """Measure `/v1/score` of a server that runs against its limit."""
    rates = measure(rounds, _limit_and_ours(server, base, texts))
    return compare(rates, "/v1/score", "limit", f"target tok/s, {len(texts.pairs)} items", 0.90)


def _limit_and_ours(server: HttpServer, base: Path, texts: Texts) -> dict[str, Callable[[], float]]:
    head = head_seconds(base, texts.target_tokens)
    return {
        "limit": lambda: texts.target_tokens / (_prefill(server, texts) + head()),
        "/v1/score": lambda: texts.target_tokens / _score(server, texts),
    }


def head_seconds(base: Path, rows: int) -> Callable[[], float]:
    """Return a function that times the bare `lm_head` product of `rows` rows on this machine's GPU or CPU."""
    import torch

    gpu = torch.cuda.is_available()
    kind: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}

    config = json.loads((base / "config.json").read_text())
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    hidden, head = torch.randn(rows, width, **kind), torch.randn(vocabulary, width, **kind)

    def seconds() -> float:
        start = time.perf_counter()
        for part in hidden.split(256):
            torch.nn.functional.linear(part, head)
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds


def _timed(calls: list[Any]) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in pool.map(lambda call: call(), calls):
            done.raise_for_status()
    return time.perf_counter() - start


def _prefill(server: HttpServer, texts: Texts) -> float:
    body = {"model": server.model, "max_tokens": 1, "temperature": 0, "logprobs": None}
    return _completions(server, body, texts)


def _completions(server: HttpServer, body: dict[str, Any], texts: Texts) -> float:
    def ask(ids: list[int]) -> Any:
        return lambda: server.http.post("/v1/completions", json={**body, "prompt": ids})

    return _timed([ask(ids) for ids in texts.ids])


def _score(server: HttpServer, texts: Texts) -> float:
    items = [{"id": str(n), "prefix": p, "target": t} for n, (p, t) in enumerate(texts.pairs)]
    return _timed([lambda: server.http.post("/v1/score", json={"model": server.model, "items": items})])


def _echo(server: HttpServer, texts: Texts) -> float:
    body = {"model": server.model, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    return _completions(server, body, texts)


def _lm_eval(server: HttpServer, base: Path, texts: Texts) -> float:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = LocalCompletionsAPI(
        model=server.model,
        base_url=f"{server.url}/v1/completions",
        tokenizer=str(base),
        tokenized_requests=True,
        num_concurrent=ITEMS,
        max_retries=1,
    )
    requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(texts.pairs)]
    start = time.perf_counter()
    model.loglikelihood(requests, disable_tqdm=True)
    return time.perf_counter() - start


def memory_of_a_long_text(server: HttpServer) -> str:
    """Score one text of nearly 8k tokens, and say how much the worker's peak memory grew by."""
    before = worker_mib(server.pid, peak=True)
    item = {"id": "long", "prefix": "1 " * 64, "target": "2 " * 3900}
    answer = server.http.post("/v1/score", json={"model": server.model, "items": [item]}).json()["items"][0]
    grown = worker_mib(server.pid, peak=True) - before
    return (
        f"scoring one text with {len(answer['target_ids']):,} target tokens raised the worker's peak memory "
        f"by {grown:,} MiB, from {before:,} MiB"
    )
