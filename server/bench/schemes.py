"""Benchmark of schemes: each against the unquantised base, in prefill and in decode."""

from functools import partial
from pathlib import Path

from lorecall.server.bench.lora import ENGINE, Load, rate
from lorecall.server.bench.paired import SETTLE_S, Row, compare, measure
from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.engine.start.environment import served_dtype

LOADS = {
    "prefill": Load(requests=12, prompt=340, generate=1),
    "decode, 1 request": Load(requests=1, prompt=16, generate=24),
    "decode, 4 requests": Load(requests=4, prompt=16, generate=24),
    "decode, 16 requests": Load(requests=16, prompt=16, generate=24),
}


def bench_schemes(bases: dict[str, Path], work: Path, rounds: int, reference: str) -> list[Row]:
    """Measure all bases in engines that live side by side; compare each with `reference`.

    Of the first, which is the default here, as much is asked as the reference gives.
    """
    main = next(iter(bases))
    engines: dict[str, EngineHost] = {}
    rows = []
    try:
        for scheme, base in bases.items():
            arguments = {**ENGINE, "model": str(base), "dtype": served_dtype(str(base))}
            engines[scheme] = EngineHost(work / f"scheme-{scheme}.log", arguments)
        for phase, load in LOADS.items():
            variants = {name: partial(rate, engine, load, []) for name, engine in engines.items()}
            rates = measure(rounds, variants, SETTLE_S)
            rows += [
                compare(rates, scheme, reference, f"{phase} tok/s", 1.0 if scheme == main else None)
                for scheme in engines
                if scheme != reference
            ]
    finally:
        for engine in engines.values():
            engine.close()
    return rows
