"""Runs a scenario once against one server: load adapters, start the background, measure, clean up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorecall.loadtest.background import PREFIX, background, plan, summarise
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.mix import draw_models
from lorecall.loadtest.scenario import Scenario
from lorecall.loadtest.target import Target
from lorecall.loadtest.traffic import BENCH, Served, send

METRICS: Mapping[str, tuple[str, Literal["more", "less"]]] = {
    "requests_per_s": ("requests per second", "more"),
    "tokens_per_s": ("generated tokens per second", "more"),
    "ttft_p50_ms": ("time to first token, median, ms", "less"),
    "ttft_p99_ms": ("time to first token, p99, ms", "less"),
    "itl_p50_ms": ("time between tokens, median, ms", "less"),
    "itl_p99_ms": ("time between tokens, p99, ms", "less"),
    "e2el_p50_ms": ("whole answer, median, ms", "less"),
    "e2el_p99_ms": ("whole answer, p99, ms", "less"),
    "completed": ("requests answered", "more"),
    "failed": ("requests failed", "less"),
    "swap_per_s": ("swaps per second", "more"),
    "swap_p50_ms": ("swap, median, ms", "less"),
    "swap_failed": ("swaps failed", "less"),
    "add_per_s": ("adapters added per second", "more"),
    "add_p50_ms": ("adding an adapter, median, ms", "less"),
    "add_failed": ("additions failed", "less"),
    "remove_per_s": ("adapters removed per second", "more"),
    "remove_p50_ms": ("removing an adapter, median, ms", "less"),
    "remove_failed": ("removals failed", "less"),
    "stream_per_s": ("streams through churning adapters per second", "more"),
    "stream_p50_ms": ("such a stream, median, ms", "less"),
    "stream_failed": ("such streams broken", "less"),
    "audit_texts_per_s": ("texts scored per second", "more"),
    "audit_p50_ms": ("a scoring call, median, ms", "less"),
    "audit_failed": ("scoring calls failed", "less"),
    "flood_per_s": ("requests of the flood per second", "more"),
    "flood_p50_ms": ("a request of the flood, median, ms", "less"),
    "flood_failed": ("requests of the flood failed", "less"),
}
"""Metric to what it is and whether more or less of it is better; the order is that of the tables."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one run.

    Attributes:
        values: Metric to value; see `METRICS`.
        errors: The distinct errors of requests that failed, of traffic and background.
    """

    values: dict[str, float]
    errors: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return int(sum(value for name, value in self.values.items() if name.endswith("failed")))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run beside the scenario and the server.

    Attributes:
        out: Directory for raw results and logs.
        tokenizer: Directory or hub id of the base's tokenizer; "" for the one that the server names.
        sources: Directories of adapters on the server; without any, the adapters that it serves already are used.
        bench: The command that is `vllm bench serve`.
    """

    out: Path
    tokenizer: str = ""
    sources: Sequence[Path] = ()
    bench: Sequence[str] = BENCH


def run(scenario: Scenario, target: Target, options: RunOptions) -> Measurement:
    """Run a scenario once.

    Raises:
        LoadtestError: It cannot be run, or ends without a result.
    """
    tokenizer = options.tokenizer or target.tokenizer()
    options.out.mkdir(parents=True, exist_ok=True)
    adapters = load_adapters(scenario, target, options.sources)
    try:
        asked = adapters[1:] if scenario.flood else adapters
        models = draw_models(scenario.traffic, target.base, asked)
        planned = plan(scenario, target, adapters, options.sources)
        with background(planned, target, options.out) as done:
            served = send(scenario.traffic, models, target, tokenizer, options.out, options.bench)
    finally:
        if options.sources:
            for name in adapters:
                target.unload(name)
    beside = summarise(done, served.began, served.seconds)
    return Measurement({**served.values, **beside}, _errors(served, [one.error for one in done]))


def load_adapters(scenario: Scenario, target: Target, sources: Sequence[Path]) -> list[str]:
    """Load the scenario's adapters, sources taken in turn; return their names.

    Raises:
        LoadtestError: The server refuses one, or serves too few and no sources are given.
    """
    count = scenario.adapters.count
    if not sources:
        if len(target.adapters) < count:
            raise LoadtestError(
                f"scenario {scenario.name} asks for {count} adapters, {target.url} serves {len(target.adapters)}",
                hint="add adapters to the server, or give directories with --adapter DIR",
            )
        return target.adapters[:count]
    names = [f"{PREFIX}{number:02d}" for number in range(count)]
    for number, name in enumerate(names):
        target.unload(name)
        target.load(name, sources[number % len(sources)])
    return names


def _errors(served: Served, background_errors: Sequence[str]) -> tuple[str, ...]:
    return (*served.errors, *sorted({error for error in background_errors if error}))
