"""Benchmark of adapters: the base alone, one adapter, and several mixed in one batch, on the same engine."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lorecall.server.bench.material import VOCABULARY, random_prompts, write_random_adapter
from lorecall.server.bench.paired import Row, compare, measure
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.engine.start.environment import served_dtype

RANK = 16
ENGINE = {"max_model_len": 1024, "enable_prefix_caching": False}


@dataclass(frozen=True, slots=True)
class Load:
    """A batch to time.

    Attributes:
        requests: How many are sent together.
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
PREFILL_TARGET, DECODE_TARGET = 0.95, 0.92

STOCK_PREFILL = Load(requests=8, prompt=64, generate=1)
STOCK_DECODE = Load(requests=16, prompt=16, generate=8)


def make_adapters(work: Path, base: Path, count: int, dtype: str) -> list[dict[str, Any]]:
    """Write `count` adapters stored as `dtype`; return them in the engine host's format."""
    paths = [
        write_random_adapter(work / f"r{RANK}-{dtype}-{n}", base, RANK, n, dtype) for n in range(1, count + 1)
    ]
    return [{"name": path.name, "id": n, "path": str(path)} for n, path in enumerate(paths, 1)]


def rate(
    engine: EngineHost, load: Load, adapters: list[dict[str, Any]], vocabulary: int = VOCABULARY
) -> float:
    """Return tokens per second of one batch, its requests spread over the adapters; [] is the base."""
    prompts = random_prompts(load.requests, load.prompt, load.requests, vocabulary)
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


def adapter_counts() -> tuple[int, ...]:
    """Return how many adapters are mixed in one batch: up to eight on a CPU, up to 32 on a GPU."""
    import torch

    return (1, 8, 32) if torch.cuda.is_available() else (1, 8)


def bench_lora(base: Path, work: Path, rounds: int, scheme: str, dtype: str = "float32") -> list[Row]:
    """Measure our engine: prefill and decode through one adapter and several, against the base alone.

    Args:
        base: Model directory.
        work: Directory for adapters and logs.
        rounds: Counted rounds.
        scheme: The base's scheme, for the rows' text.
        dtype: The adapters' dtype, a name of torch's.
    """
    counts = adapter_counts()
    adapters = make_adapters(work, base, counts[-1], dtype)
    engine = EngineHost(work / "lora.log", _arguments(base, counts[-1]))
    try:
        return [
            row
            for phase, load, target in (
                ("prefill", PREFILL, PREFILL_TARGET),
                ("decode", DECODE, DECODE_TARGET),
            )
            for row in _rows(
                engine, (phase, scheme, load), adapters, counts, rounds, target, f"adapters in {dtype}"
            )
        ]
    finally:
        engine.close()


def bench_stock_lora(base: Path, work: Path, rounds: int, scheme: str) -> tuple[list[Row], list[str]]:
    """Measure stock vLLM the same way, on smaller batches; return its rows, and a note if it died."""
    counts = adapter_counts()
    adapters = make_adapters(work, base, counts[-1], "float32")
    rows: list[Row] = []
    try:
        engine = EngineHost(work / "stock.log", _arguments(base, counts[-1]), plugin=False)
    except EngineDiedError:
        return rows, [f"stock vLLM does not start with LoRA on the {scheme} base"]
    try:
        for phase, load in (("prefill", STOCK_PREFILL), ("decode", STOCK_DECODE)):
            rows += _rows(engine, (phase, scheme, load), adapters, counts, rounds, None)
    except EngineDiedError:
        return rows, [f"stock vLLM died with LoRA on the {scheme} base"]
    finally:
        engine.close()
    return rows, []


def _arguments(base: Path, adapters: int) -> dict[str, Any]:
    lora = {"enable_lora": True, "max_loras": adapters, "max_lora_rank": RANK}
    return {**ENGINE, **lora, "model": str(base), "dtype": served_dtype(str(base))}


def _rows(
    engine: EngineHost,
    what: tuple[str, str, Load],
    adapters: list[dict[str, Any]],
    counts: tuple[int, ...],
    rounds: int,
    target: float | None,
    note: str = "",
) -> list[Row]:
    phase, scheme, load = what
    variants = {"base alone": partial(rate, engine, load, [])}
    for count in counts:
        variants[_label(count)] = partial(rate, engine, load, adapters[:count])
    rates = measure(rounds, variants)
    unit = f"{phase} tok/s, {scheme}, {load.requests} requests of {load.prompt} tokens"
    return [compare(rates, _label(count), "base alone", unit, target, note) for count in counts]


def _label(count: int) -> str:
    return f"{count} adapter" + ("" if count == 1 else "s mixed")
