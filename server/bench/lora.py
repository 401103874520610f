"""What adapters cost: the base alone, one adapter, and eight mixed in one batch, on the same engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.server.bench.host import EngineDiedError, EngineHost
from lorecall.server.bench.material import random_prompts, write_random_adapter
from lorecall.server.bench.paired import Row, compare, measure

ADAPTERS = 8
RANK = 16
ENGINE = {
    "max_model_len": 1024,
    "enable_prefix_caching": False,
    "enable_lora": True,
    "max_loras": ADAPTERS,
    "max_lora_rank": RANK,
}


@dataclass(frozen=True, slots=True)
class Load:
    """A batch to time.

    Attributes:
        requests: How many enter together.
        prompt: Prompt tokens of each.
        generate: Tokens that each generates; 1 makes it a measurement of prefill.
    """

    requests: int
    prompt: int
    generate: int

    @property
    def counted(self) -> int:
        """Tokens that the rate counts: those of the prompts in prefill, those generated in decode."""
        return self.requests * (self.prompt if self.generate == 1 else self.generate)


PREFILL = Load(requests=16, prompt=256, generate=1)
DECODE = Load(requests=16, prompt=16, generate=48)
STOCK_PREFILL = Load(requests=8, prompt=64, generate=1)
STOCK_DECODE = Load(requests=16, prompt=16, generate=8)


def make_adapters(work: Path, base: Path) -> list[dict[str, Any]]:
    """Write the adapters, and return them as the engine host takes them."""
    paths = [write_random_adapter(work / f"r{RANK}-{n}", base, RANK, n) for n in range(1, ADAPTERS + 1)]
    return [{"name": path.name, "id": n, "path": str(path)} for n, path in enumerate(paths, 1)]


def rate(engine: EngineHost, load: Load, adapters: list[dict[str, Any]]) -> float:
    """Return tokens per second of one batch whose requests go round the adapters; none: the base."""
    prompts = random_prompts(load.requests, load.prompt, seed=load.requests)
    requests = [
        {
            "ids": ids,
            "max_tokens": load.generate,
            "adapter": adapters[number % len(adapters)] if adapters else None,
        }
        for number, ids in enumerate(prompts)
    ]
    seconds, _ = engine.timed(requests)
    return load.counted / seconds


def bench_lora(base: Path, work: Path, rounds: int, scheme: str) -> list[Row]:
    """Measure our engine: prefill and decode, one adapter and eight, against the base alone."""
    adapters = make_adapters(work, base)
    engine = EngineHost(work / "lora.log", {**ENGINE, "model": str(base)})
    rows = []
    try:
        for phase, load, one, eight in (("prefill", PREFILL, 0.90, 0.85), ("decode", DECODE, 0.85, 0.85)):
            variants = {"base alone": [], "one adapter": adapters[:1], "eight adapters": adapters}
            rates = measure(rounds, {name: _timed(engine, load, used) for name, used in variants.items()})
            unit = f"{phase} tok/s, {scheme}, {load.requests} requests"
            for name, target in (("one adapter", one), ("eight adapters", eight)):
                rows.append(compare(rates, name, "base alone", unit, target))
    finally:
        engine.close()
    return rows


def bench_stock_lora(base: Path, work: Path, rounds: int, scheme: str) -> tuple[list[Row], list[str]]:
    """Measure stock vLLM the same way, on smaller batches; return its rows, and how it ended if it died."""
    adapters = make_adapters(work, base)
    rows: list[Row] = []
    try:
        engine = EngineHost(work / "stock.log", {**ENGINE, "model": str(base)}, plugin=False)
    except EngineDiedError:
        return rows, [f"stock vLLM does not start with LoRA on the {scheme} base"]
    try:
        for phase, load in (("prefill", STOCK_PREFILL), ("decode", STOCK_DECODE)):
            variants = {"base alone": [], "one adapter": adapters[:1], "eight adapters": adapters}
            rates = measure(rounds, {name: _timed(engine, load, used) for name, used in variants.items()})
            unit = f"{phase} tok/s, {scheme}, {load.requests} requests"
            for name in ("one adapter", "eight adapters"):
                row = compare(rates, name, "base alone", unit, note="stock vLLM")
                rows.append(row)
    except EngineDiedError:
        return rows, [f"stock vLLM died with LoRA on the {scheme} base"]
    finally:
        engine.close()
    return rows, []


def _timed(engine: EngineHost, load: Load, adapters: list[dict[str, Any]]) -> Any:
    return lambda: rate(engine, load, adapters)
