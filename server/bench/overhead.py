"""Benchmark of our server against stock `vllm serve`: the same engine arguments, no adapters."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from lorecall.server.bench.material import random_prompts
from lorecall.server.bench.paired import SETTLE_S, Row, compare, measure
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.engine.start.environment import cpu_environment, openmp_library, served_dtype

REQUESTS = 24
CONCURRENT = 8
PROMPT = 64
GENERATE = 24
FLAGS = ("--max-model-len", "1024", "--no-enable-prefix-caching", "--no-enable-lora")


def bench_overhead(base: Path, work: Path, rounds: int) -> list[Row]:
    """Measure both servers side by side, stock with and without the log-probabilities that ours always gives."""
    cores = sorted(os.sched_getaffinity(0))
    environ = {**cpu_environment({}, cores, openmp_library()), "LORECALL_STORE": str(work / "store")}
    common = (*FLAGS, "--dtype", served_dtype(str(base)))
    flags = (*common, "--scheduling-policy", "fcfs")
    servers: dict[str, HttpServer] = {}
    try:
        servers["lorecall serve"] = HttpServer(base, work / "ours.log", flags, environ=environ)
        servers["vllm serve"] = HttpServer(
            base, work / "stock-server.log", common, stock=True, environ=environ
        )
        ours, stock = "lorecall serve", "vllm serve"
        asked = f"{stock}, logprobs 1"
        variants = {
            ours: partial(_rate, servers[ours], {}),
            stock: partial(_rate, servers[stock], {}),
            asked: partial(_rate, servers[stock], {"logprobs": 1}),
        }
        rates = measure(rounds, variants, SETTLE_S)
        unit = f"generated tok/s, {CONCURRENT} at a time"
        return [
            compare(rates, ours, asked, unit, 0.99, "top-1 logprobs on both sides"),
            compare(rates, ours, stock, unit, note="top-1 logprobs in ours alone"),
        ]
    finally:
        for server in servers.values():
            server.close()


def _rate(server: HttpServer, options: dict[str, Any]) -> float:
    def ask(ids: list[int]) -> None:
        body = {
            "model": server.model,
            "prompt": ids,
            "max_tokens": GENERATE,
            "temperature": 0,
            "ignore_eos": True,
            **options,
        }
        server.http.post("/v1/completions", json=body).raise_for_status()

    prompts = random_prompts(REQUESTS, PROMPT, seed=3)
    start = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT) as pool:
        list(pool.map(ask, prompts))
    return REQUESTS * GENERATE / (time.perf_counter() - start)
