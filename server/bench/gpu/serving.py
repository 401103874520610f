"""Our server against stock vLLM's, and what its own defaults, its scoring and many registered adapters cost."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from lorecall.server.bench.gpu.setting import Setting
from lorecall.server.bench.lora import RANK
from lorecall.server.bench.material import random_prompts, write_random_adapter
from lorecall.server.bench.paired import Row, compare, measure
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.bench.report import rows_table
from lorecall.server.bench.scoring import against_limit, make_texts

OVERHEAD_TARGET = 0.98
PROMPT = 64
SLOTS = 8
REGISTERING_S = 35.0
"""Seconds for adding adapters; the table says how many that were."""


def overhead(setting: Setting) -> None:
    """Compare both servers without adapters, ours with its default of top-1 log-probabilities and without."""
    base = setting.base("speed")
    up = setting.servers(base, {"ours": False, "stock": True}, "--no-enable-lora")
    try:
        ask = partial(_rate, setting, base)
        rates = measure(
            setting.sizes.rounds,
            {
                "vllm serve": lambda: ask(up["stock"], [up["stock"].model]),
                "lorecall serve": lambda: ask(up["ours"], [up["ours"].model]),
                "lorecall serve, logprobs off": lambda: ask(
                    up["ours"], [up["ours"].model], {"logprobs": None}
                ),
            },
        )
    finally:
        for server in up.values():
            server.close()
    unit = f"generated tok/s, {setting.sizes.concurrent} requests at a time"
    on, off = "lorecall serve", "lorecall serve, logprobs off"
    rows = [
        compare(rates, on, "vllm serve", unit, OVERHEAD_TARGET, "top-1 logprobs on in ours"),
        compare(rates, off, "vllm serve", unit),
        compare(rates, on, off, unit, None, "what --default-logprobs on costs"),
    ]
    setting.page("overhead", rows_table(rows))


def scoring(setting: Setting) -> None:
    """Compare `/v1/score` with its limit: prefill of the same texts, and `lm_head` on the target rows."""
    base = setting.base("speed")
    texts = make_texts(base, items=4 * setting.sizes.concurrent)
    up = setting.servers(base, {"ours": False}, "--no-enable-lora")
    try:
        row = against_limit(up["ours"], base, texts, setting.sizes.rounds)
    finally:
        up["ours"].close()
    setting.page("scoring", rows_table([row]))


def registered(setting: Setting) -> None:
    """Compare decode with few adapters registered and with many: through the same few, and through all."""
    base = setting.base("speed")
    source = write_random_adapter(setting.work / "registered", base, RANK, seed=5)
    flags = ("--enable-lora", "--max-loras", str(SLOTS), "--max-lora-rank", str(RANK))
    server = setting.servers(base, {"ours": False}, *flags)["ours"]
    try:
        end = time.monotonic() + REGISTERING_S
        few = add(server, source, range(SLOTS), end)
        reference = [_rate(setting, base, server, few) for _ in range(setting.sizes.rounds + 1)][1:]
        rows, known = [], list(few)
        for count in setting.sizes.registered:
            known += add(server, source, range(len(known), count), end)
            if len(known) < count:
                setting.notes.append(f"{len(known)} of {count} were added in {REGISTERING_S:.0f} s")
            rows += _with_many(setting, base, server, few, known, reference)
            setting.page("registered", rows_table(rows))
    finally:
        server.close()


def add(server: HttpServer, source: Path, numbers: Sequence[int], end: float) -> list[str]:
    """Add one adapter under the names of numbers, four at a time, until a time; return the names added."""

    def one(number: int) -> str | None:
        if time.monotonic() > end:
            return None
        name = f"registered-{number:04d}"
        body = {"name": name, "source": str(source)}
        server.http.post("/v1/adapters", json=body).raise_for_status()
        return name

    with ThreadPoolExecutor(4) as pool:
        return [name for name in pool.map(one, numbers) if name is not None]


def _with_many(
    setting: Setting,
    base: Path,
    server: HttpServer,
    few: list[str],
    known: list[str],
    reference: list[float],
) -> list[Row]:
    """Return the rows of one number of registered adapters."""
    draw = np.random.default_rng(len(known))
    weights = 1 / np.arange(1, len(known) + 1)
    zipf = [
        known[n] for n in draw.choice(len(known), 4 * setting.sizes.concurrent, p=weights / weights.sum())
    ]
    rates = measure(
        setting.sizes.rounds,
        {
            "the same": lambda: _rate(setting, base, server, few),
            "all": lambda: _rate(setting, base, server, zipf),
        },
    )
    alone = f"{len(few)} registered"
    rates[alone] = reference
    unit = f"generated tok/s, {setting.sizes.concurrent} requests at a time, {len(known)} registered"
    return [
        compare(rates, "the same", alone, unit, None, f"through the first {len(few)}"),
        compare(rates, "all", alone, unit, None, "through all, by Zipf's law with exponent 1"),
    ]


def _rate(
    setting: Setting,
    base: Path,
    server: HttpServer,
    models: Sequence[str],
    more: dict[str, object] | None = None,
) -> float:
    """Return generated tokens a second: four rounds of concurrent requests, spread over the models."""
    sizes = setting.sizes
    prompts = random_prompts(4 * sizes.concurrent, PROMPT, 3, setting.vocabulary(base))

    def ask(numbered: tuple[int, list[int]]) -> None:
        number, ids = numbered
        body = {"model": models[number % len(models)], "prompt": ids, "max_tokens": sizes.generate}
        body |= {"temperature": 0, "ignore_eos": True, **(more or {})}
        server.http.post("/v1/completions", json=body).raise_for_status()

    started = time.perf_counter()
    with ThreadPoolExecutor(sizes.concurrent) as pool:
        for _ in islice(pool.map(ask, enumerate(prompts)), len(prompts)):
            pass
    return len(prompts) * sizes.generate / (time.perf_counter() - started)
