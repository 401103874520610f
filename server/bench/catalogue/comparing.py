"""Many registered adapters, few of them, and stock vLLM under the same traffic: servers, rounds, and the page."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.registry.registry import Registry
from lorecall.server.bench.catalogue.filling import Entry, fill_registry, fill_store, link_adapters, unmade
from lorecall.server.bench.catalogue.watching import at_rest, list_times, memory_mib, use_all
from lorecall.server.bench.comparison import Measured, Metrics
from lorecall.server.bench.material import write_random_adapter
from lorecall.server.bench.paired import make_row, show, take_turns
from lorecall.server.bench.processes.serving import HttpServer
from lorecall.server.bench.report import machine_line

MANY, FEW, STOCK = "many", "few", "stock"
WEIGHTS = 16
"""Random weights that the adapters share: each one's configuration makes it a version of its own."""


METHOD = (
    "First each adapter that the rounds ask for is asked for one token, twice: what its first use costs is below,"
    " and the rounds ask for none that is new to the server. One round uncounted, then {rounds} counted ones in"
    " alternating order, each with other draws. The traffic"
    " over {beside} adapters asks for the one at the same place by the least recent use, so that the slots hold"
    " it as often. Medians of the rounds; a ratio is the first column's by the other's, with a 95 % percentile"
    " bootstrap interval over the rounds. Stock vLLM serves the same folders by its `lora_filesystem_resolver`."
)
NO_REGISTRY = (
    "A stock server registers nothing: it finds an adapter when it is asked for one, and lists those that it has"
    " loaded."
)


@dataclass(slots=True)
class Served:
    """One server of the comparison, and what was measured of it beside its traffic.

    Attributes:
        server: It.
        names: The adapters that its traffic may ask for.
        database: Its registry's file; None for a stock one.
        facts: Row to value.
    """

    server: HttpServer
    names: list[str]
    database: Path | None
    facts: dict[str, float] = field(default_factory=dict)


@contextmanager
def catalogue_servers(
    base: Path,
    work: Path,
    sizes: tuple[int, int, int],
    rank: int,
    flags: Sequence[str],
    environ: Mapping[str, str],
) -> Iterator[dict[str, Served]]:
    """Start the three servers; a stock one finds its adapters by vLLM's resolver for folders.

    Args:
        base: Model directory.
        work: An empty directory on the disk that holds the adapters.
        sizes: How many adapters the traffic asks for, how many are registered beside, and how many names the
            first server's registry has in all.
        rank: Of the adapters.
        flags: Engine arguments of all.
        environ: Variables of all.

    Raises:
        LorecallError: One does not start.
    """
    count, beside, listed = sizes
    made = [
        write_random_adapter(work / "weights" / str(n), base, rank, n) for n in range(min(WEIGHTS, count))
    ]
    entries = link_adapters(made, work / "adapters", count, rank)
    with ExitStack() as started:
        found = {
            MANY: started.enter_context(
                _ours(base, work / MANY, entries, unmade(count, listed), flags, environ)
            ),
            FEW: started.enter_context(_ours(base, work / FEW, entries[:beside], [], flags, environ)),
        }
        resolver = {
            "VLLM_PLUGINS": "lora_filesystem_resolver",
            "VLLM_LORA_RESOLVER_CACHE_DIR": str(work / "adapters"),
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        began = time.perf_counter()
        stock = HttpServer(base, work / "stock.log", flags, stock=True, environ={**environ, **resolver})
        started.callback(stock.close)
        found[STOCK] = Served(stock, [one.name for one in entries], None)
        found[STOCK].facts |= {"start, s": time.perf_counter() - began}
        yield found


@contextmanager
def _ours(
    base: Path,
    work: Path,
    entries: Sequence[Entry],
    names_only: Sequence[Entry],
    flags: Sequence[str],
    environ: Mapping[str, str],
) -> Iterator[Served]:
    """Start a server of ours with these adapters, and with names of which no file exists."""
    store = work / "store"
    fill_store(store, entries)
    database = store / "registry.db"
    registry = Registry(f"sqlite:///{database}")
    fill_registry(registry, entries)
    if names_only:
        fill_registry(registry, names_only)
    began = time.perf_counter()
    changed = registry.changes(0).adapters
    for first in range(0, len(changed), 500):
        registry.versions_of([one.name for one in changed[first : first + 500]], limit=1)
    facts = {"names registered": float(len(changed)), "reading the registry, s": time.perf_counter() - began}
    registry.close()
    began = time.perf_counter()
    server = HttpServer(base, work / "log", flags, environ={**environ, "LORECALL_STORE": str(store)})
    facts["start, s"] = time.perf_counter() - began
    try:
        yield Served(server, [one.name for one in entries], database, {**facts, **list_times(server)})
    finally:
        server.close()


def run_rounds(
    found: Mapping[str, Served],
    rounds: int,
    idle_s: float,
    runs: Mapping[str, Callable[[], Measured]],
    asked: Sequence[str],
) -> list[dict[str, Measured]]:
    """Measure memory and first uses, then the rounds in turns, then memory and rest; `found` gets the facts.

    Args:
        found: The servers.
        rounds: Counted rounds.
        idle_s: Seconds of rest that are watched.
        runs: Sends one round's traffic to each server.
        asked: The adapters that the rounds ask for, more than there are slots; all of those of a server that has
            fewer.
    """
    for one in found.values():
        one.facts["memory before traffic, MiB"] = memory_mib(one.server.pid)
        used = [name for name in one.names if name in asked] if len(one.names) > len(asked) else one.names
        for row in ("first use of an adapter at rest, median, ms", "a later cold load at rest, median, ms"):
            one.facts[row] = use_all(one.server, used)
    measured = list(take_turns(rounds, runs))
    time.sleep(5)  # the worker spins for a second after an answer, and a server looks at its slots every 15
    for one in found.values():
        one.facts["memory after traffic, MiB"] = memory_mib(one.server.pid)
        one.facts |= at_rest(one.server.pid, idle_s, one.database)
    return measured


def write_catalogue(
    out: Path,
    scenario: dict[str, Any],
    metrics: Metrics,
    found: Mapping[str, Served],
    rounds: Sequence[Mapping[str, Measured]],
    command: str,
    machine: dict[str, Any],
) -> Path:
    """Write `catalogue.json` and `catalogue.md` into `out`; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    errors = sorted(
        {f"{name}: {error}" for one in rounds for name, run in one.items() for error in run.errors}
    )
    body = {
        "schema_version": 1,
        "machine": machine,
        "command": command,
        "scenario": scenario,
        "facts": {name: one.facts for name, one in found.items()},
        "rounds": [{name: dict(run.values) for name, run in one.items()} for one in rounds],
        "errors": errors,
    }
    write_whole(out / f"{scenario['name']}.json", json.dumps(body, indent=2) + "\n")
    page = out / f"{scenario['name']}.md"
    write_whole(page, _page(body, metrics))
    return page


def _page(body: dict[str, Any], metrics: Metrics) -> str:
    scenario, facts = body["scenario"], body["facts"]
    adapters, traffic, many = scenario["adapters"], scenario["traffic"], scenario["catalogue"]
    heads = (f"{adapters['count']:,} adapters", f"{many['beside']} adapters", "ratio", "interval")
    asked = (
        f"Rank {adapters['rank']}, {adapters['slots']} slots, `{' '.join(scenario['engine'])}`;"
        f" {traffic['requests']} requests of {traffic['input_tokens']} tokens in,"
        f" {traffic['output_tokens']} out, {traffic['concurrency']} at a time."
    )
    lines = [
        f"# Load test `{scenario['name']}` of {body['machine']['date']}",
        "",
        scenario["description"],
        "",
        f"{machine_line(body['command'], body['machine'])} {asked}",
        "",
        METHOD.format(beside=many["beside"], rounds=len(body["rounds"])),
        "",
        "| what | " + " | ".join(heads) + " | stock vLLM | ratio | interval |",
        "|---|---|---|---|---|---|---|---|",
        *_traffic_rows(body["rounds"], metrics),
        "",
        "## Beside the traffic",
        "",
        NO_REGISTRY,
        "",
        f"| what | {heads[0]}, {many['listed']:,} names | {heads[1]} | stock vLLM |",
        "|---|---|---|---|",
    ]
    for row in dict.fromkeys(row for one in facts.values() for row in one):
        cells = [show(one[row]) if row in one else "no" for one in facts.values()]
        lines.append("| " + " | ".join((row, *cells)) + " |")
    if body["errors"]:
        lines += ["", "## Errors of requests", "", *(f"- {error}" for error in body["errors"])]
    return "\n".join(lines) + "\n"


def _traffic_rows(rounds: Sequence[Mapping[str, Mapping[str, float]]], metrics: Metrics) -> Iterator[str]:
    """Yield one line for each metric that both servers of ours have in every round."""
    for metric, (text, better) in metrics.items():
        column = {
            name: [one[name][metric] for one in rounds] if all(metric in one[name] for one in rounds) else []
            for name in (MANY, FEW, STOCK)
        }
        if not column[MANY] or not column[FEW]:
            continue
        less = better == "less"
        ours, few, *ratio = make_row(metric, column[MANY], column[FEW], less_is_better=less).cells()
        theirs = ["no", "", ""]
        if column[STOCK]:
            theirs = list(make_row(metric, column[MANY], column[STOCK], less_is_better=less).cells()[1:])
        yield "| " + " | ".join((text, ours, few, *ratio, *theirs)) + " |"
