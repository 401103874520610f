"""Benchmark of our server against stock `vllm serve`: the same engine arguments, no adapters."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lorecall.server.bench.material import random_prompts
from lorecall.server.bench.paired import SETTLE_S, Row, compare, measure
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.engine.start.environment import cpu_environment, openmp_library, served_dtype

REQUESTS = 24
CONCURRENT = 8
PROMPT = 64
GENERATE = 24
FLAGS = ("--max-model-len", "1024", "--no-enable-prefix-caching", "--enforce-eager", "--no-enable-lora")


def bench_overhead(base: Path, work: Path, rounds: int) -> list[Row]:
    """Measure both servers side by side; ours answers with top-1 log-probabilities, which are its default."""
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
        rates = measure(rounds, {name: partial(_rate, one) for name, one in servers.items()}, SETTLE_S)
        unit = f"generated tok/s, {CONCURRENT} at a time"
        return [compare(rates, "lorecall serve", "vllm serve", unit, 0.97, "top-1 logprobs on in ours")]
    finally:
        for server in servers.values():
            server.close()


def _rate(server: HttpServer) -> float:
    def ask(ids: list[int]) -> None:
        body = {
            "model": server.model,
            "prompt": ids,
            "max_tokens": GENERATE,
            "temperature": 0,
            "ignore_eos": True,
        }
        server.http.post("/v1/completions", json=body).raise_for_status()

    prompts = random_prompts(REQUESTS, PROMPT, seed=3)
    start = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT) as pool:
        list(pool.map(ask, prompts))
    return REQUESTS * GENERATE / (time.perf_counter() - start)
