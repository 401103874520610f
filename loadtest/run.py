"""Runs a scenario once against one server: load adapters, start the background, measure, clean up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lorecall.loadtest.background import PREFIX, background, plan, summarise
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.mix import as_often, draw_models, recency
from lorecall.loadtest.scenario import Scenario, Slo
from lorecall.loadtest.target import Target
from lorecall.loadtest.traffic import BENCH, Sent, Served, send

METRICS: Mapping[str, tuple[str, Literal["more", "less"]]] = {
    "requests_per_s": ("requests per second", "more"),
    "tokens_per_s": ("generated tokens per second", "more"),
    "ttft_p50_ms": ("time to first token, median, ms", "less"),
    "ttft_p99_ms": ("time to first token, p99, ms", "less"),
    "itl_p50_ms": ("time between tokens, median, ms", "less"),
    "itl_p99_ms": ("time between tokens, p99, ms", "less"),
    "e2el_p50_ms": ("whole answer, median, ms", "less"),
    "e2el_p99_ms": ("whole answer, p99, ms", "less"),
    "hit_ttft_p50_ms": ("first token where the slots hold the adapter, median, ms", "less"),
    "hit_ttft_p99_ms": ("the same, p99, ms", "less"),
    "cold_ttft_p50_ms": ("first token after a cold load, median, ms", "less"),
    "cold_ttft_p99_ms": ("the same, p99, ms", "less"),
    "adapters_asked": ("adapters asked for", "more"),
    "adapters_within_slo": ("adapters within the SLO", "more"),
    "requests_within_slo": ("share of requests within the SLO", "more"),
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
        served: Adapters that the server serves, without asking it: a stock one with a resolver lists none.
        instead_of: Names of a larger catalogue: its traffic is sent with the same hits over this one's adapters.
    """

    out: Path
    tokenizer: str = ""
    sources: Sequence[Path] = ()
    bench: Sequence[str] = BENCH
    served: Sequence[str] = ()
    instead_of: Sequence[str] = ()


def run(scenario: Scenario, target: Target, options: RunOptions) -> Measurement:
    """Run a scenario once.

    Raises:
        LoadtestError: It cannot be run, or ends without a result.
    """
    tokenizer = options.tokenizer or target.tokenizer()
    options.out.mkdir(parents=True, exist_ok=True)
    adapters = options.served or load_adapters(scenario, target, options.sources)
    try:
        asked = adapters[1:] if scenario.flood else adapters
        models = draw_models(scenario.traffic, target.base, options.instead_of or asked)
        if options.instead_of:
            ours = iter(
                as_often([one for one in models if one != target.base], asked, scenario.adapters.slots)
            )
            models = [one if one == target.base else next(ours) for one in models]
        planned = plan(scenario, target, adapters, options.sources)
        with background(planned, target, options.out) as done:
            served = send(scenario.traffic, models, target, tokenizer, options.out, options.bench)
    finally:
        if options.sources:
            for name in adapters:
                target.unload(name)
    beside = summarise(done, served.began, served.seconds)
    seen = seen_by_adapters(scenario, models, target.base, served.requests)
    return Measurement({**served.values, **seen, **beside}, _errors(served, [one.error for one in done]))


def seen_by_adapters(
    scenario: Scenario, models: Sequence[str], base: str, requests: Sequence[Sent]
) -> dict[str, float]:
    """Return the metrics of a run by adapter: how many are within the SLO, and what a cold load costs.

    A request is a cold load where `slots` other models were asked for since its own was, or it is the first.

    Args:
        scenario: The scenario.
        models: The model of each request.
        base: The base's name; its requests count as none of an adapter.
        requests: The requests, in the same order; empty where nobody knows them.
    """
    asked = [(name, one) for name, one in zip(models, requests, strict=bool(requests)) if name != base]
    if not asked:
        return {}
    values = {"adapters_asked": float(len({name for name, _ in asked}))}
    places = recency([name for name, _ in asked])
    for kind, cold in (("hit", False), ("cold", True)):
        times = [
            one.ttft_ms
            for (_, one), place in zip(asked, places, strict=True)
            if one.ttft_ms is not None and (place is None or place >= scenario.adapters.slots) is cold
        ]
        if times:
            values |= {f"{kind}_ttft_p{p}_ms": float(np.percentile(times, p)) for p in (50, 99)}
    if scenario.slo is not None:
        kept = [(name, _within(one, scenario.slo)) for name, one in asked]
        outside = {name for name, good in kept if not good}
        values["adapters_within_slo"] = values["adapters_asked"] - len(outside)
        values["requests_within_slo"] = sum(good for _, good in kept) / len(kept)
    return values


def _within(sent: Sent, slo: Slo) -> bool:
    if sent.ttft_ms is None or sent.tpot_ms is None:
        return False
    return sent.ttft_ms <= slo.ttft_ms and sent.tpot_ms <= slo.tpot_ms


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
