"""Starts our server and stock vLLM on one base with the same engine arguments, and writes adapters for both."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lorecall.server.bench.material import write_random_adapter
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.engine.start.environment import (
    cpu_environment,
    openmp_library,
    rank_limit,
    served_dtype,
)


def write_adapters(base: Path, work: Path, count: int, rank: int) -> list[Path]:
    """Write random adapters for a base; return their directories."""
    return [
        write_random_adapter(work / f"adapter-{number:02d}", base, rank, number) for number in range(count)
    ]


@contextmanager
def both(
    base: Path, work: Path, flags: Sequence[str], slots: int, rank: int
) -> Iterator[tuple[HttpServer, HttpServer]]:
    """Start our server and a stock one; yield them in this order.

    Args:
        base: Model directory.
        work: Directory for logs and our store.
        flags: Engine arguments of both.
        slots: `--max-loras` of both.
        rank: The largest rank of the adapters.

    Raises:
        LorecallError: One does not start.
    """
    environ, same = shared(base, flags, slots, rank)
    environ |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with ExitStack() as started:
        own = {**environ, "LORECALL_STORE": str(work / "store")}
        ours = HttpServer(base, work / "ours.log", same, environ=own)
        started.callback(ours.close)
        stock = HttpServer(base, work / "stock.log", same, stock=True, environ=environ)
        started.callback(stock.close)
        yield ours, stock


def shared(base: Path, flags: Sequence[str], slots: int, rank: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables and the engine arguments of every server that is compared."""
    cores = sorted(os.sched_getaffinity(0))
    environ = cpu_environment({"VLLM_CPU_KVCACHE_SPACE": "1"}, cores, openmp_library())
    lora = ("--enable-lora", "--max-loras", str(slots), "--max-lora-rank", str(rank_limit([rank])))
    dtype = ("--dtype", served_dtype(str(base)))
    return environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}, (
        *lora,
        *dtype,
        "--scheduling-policy",
        "priority",
        *flags,
    )
