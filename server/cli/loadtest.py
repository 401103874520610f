"""`lorecall loadtest`: traffic, churn and audits against a running server, and against stock vLLM."""

import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from lorecall.adapters.core.atomic_file import write_whole
from lorecall.server.cli.common.console import note
from lorecall.server.cli.common.options import LOCAL, AsJson, PageFolder, Server
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lorecall.loadtest.scenario import Scenario, Traffic

app = typer.Typer(help="Load tests: vLLM's own client, adapters that change, audits.", no_args_is_help=True)

BENCH = (sys.executable, "-m", "lorecall.server.bench.processes.load_client")
Name = Annotated[str, typer.Argument(metavar="SCENARIO", help="A YAML file, or the name of a shipped one.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to keep raw results and logs.")]


@app.command("list")
def list_scenarios() -> None:
    """List the scenarios that come with lorecall."""
    from lorecall.loadtest.scenario import load_scenario, shipped

    table = Table("scenario", "what it does")
    for name in shipped():
        table.add_row(name, load_scenario(name).description)
    Console().print(table)


@app.command("run")
def run_once(
    scenario: Name,
    server: Server = LOCAL,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="PEFT directory on the server to load; repeatable."),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Directory or hub id of the base's tokenizer; by default the one that the server names."
        ),
    ] = "",
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Run a scenario on a running server: exit 0 if every request was answered, else 1.

    Without --adapter the traffic goes to the adapters that the server serves. The API key comes from
    LORECALL_API_KEY.
    """
    with _translated(), _work(out) as work:
        from lorecall.loadtest.report import run_body, run_table
        from lorecall.loadtest.run import RunOptions, run
        from lorecall.loadtest.scenario import load_scenario
        from lorecall.loadtest.target import Target
        from lorecall.server.bench.paired import show

        chosen = load_scenario(scenario)
        sources = [path.resolve() for path in adapter or ()]
        with Target(server, os.environ.get("LORECALL_API_KEY", "")) as target:
            found = run(chosen, target, RunOptions(work, tokenizer, sources, BENCH))
        body = json.dumps(run_body(chosen, found), indent=2)
        if out is not None:
            write_whole(work / f"{chosen.name}.json", body + "\n")
    if as_json:
        typer.echo(body)
    else:
        table = Table("what", "value")
        for what, value in run_table(found):
            table.add_row(what, show(value))
        Console().print(table)
    for error in found.errors:
        note(error)
    raise typer.Exit(1 if found.failed else 0)


@app.command("compare")
def compare(
    scenario: Name,
    base: Annotated[Path, typer.Option(help="The base that both servers serve.")],
    out: PageFolder = Path("docs/loadtests"),
    rounds: Annotated[
        int | None, typer.Option(min=2, help="Counted rounds; by default the scenario's.")
    ] = None,
) -> None:
    """Compare our server with stock vLLM on one base, with the same engine arguments and adapters.

    It starts both on this machine, with random adapters of the scenario's rank. They take turns, round by round.
    """
    with _translated(), _work(None) as work:
        from lorecall.adapters.core.errors import UsageError
        from lorecall.loadtest.scenario import load_scenario
        from lorecall.server.engine.start.environment import prepare_environment

        chosen = load_scenario(scenario)
        if not (base / "config.json").is_file():
            raise UsageError(f"--base {base} holds no config.json", hint="give the directory of a model")
        prepare_environment()
        signal.signal(signal.SIGTERM, _stop)
        compared = _with_stock if chosen.catalogue is None else _catalogue
        page = compared(chosen, base, work, out, rounds or chosen.rounds)
    Console().print(page.read_text(encoding="utf-8"), markup=False)
    note(f"written: {page}")


def _with_stock(chosen: "Scenario", base: Path, work: Path, out: Path, rounds: int) -> Path:
    """Compare our server with a stock one; return the page."""
    from lorecall.loadtest.run import METRICS, RunOptions, run
    from lorecall.loadtest.target import Target
    from lorecall.server.bench.comparison import compare_servers, write_comparison
    from lorecall.server.bench.report import machine
    from lorecall.server.bench.versus import both, write_adapters

    rank = chosen.adapters.rank
    sources = write_adapters(base, work, max(chosen.adapters.count, 2), rank)
    with ExitStack() as stack:
        servers = stack.enter_context(both(base, work, chosen.engine, chosen.adapters.slots, rank))
        targets = [stack.enter_context(Target(one.url)) for one in servers]
        runs = [
            _translated()(partial(run, chosen, target, RunOptions(work / name, str(base), sources, BENCH)))
            for name, target in zip(("ours", "stock"), targets, strict=True)
        ]
        found = compare_servers(rounds, METRICS, *runs)
    return write_comparison(out, asdict(chosen), found, _command(), machine())


def _catalogue(chosen: "Scenario", base: Path, work: Path, out: Path, rounds: int) -> Path:
    """Compare a server with all adapters, one with few, and a stock one; return the page."""
    from lorecall.loadtest.mix import draw_models
    from lorecall.loadtest.run import METRICS, Measurement, RunOptions, run
    from lorecall.loadtest.target import Target
    from lorecall.server.bench.catalogue.comparing import (
        FEW,
        Served,
        catalogue_servers,
        run_rounds,
        write_catalogue,
    )
    from lorecall.server.bench.report import machine
    from lorecall.server.bench.versus import shared

    adapters, many = chosen.adapters, chosen.catalogue
    assert many is not None  # noqa: S101  (`compare` asked)
    environ, flags = shared(base, chosen.engine, adapters.slots, adapters.rank)
    sizes = (adapters.count, many.beside, many.listed)
    with ExitStack() as stack:
        found = stack.enter_context(catalogue_servers(base, work, sizes, adapters.rank, flags, environ))
        names = next(iter(found.values())).names

        def round_of(number: int) -> "Traffic":
            return replace(chosen.traffic, seed=chosen.traffic.seed + number)

        def runs_of(name: str, one: Served) -> Callable[[], Measurement]:
            target = stack.enter_context(Target(one.server.url))
            options = RunOptions(work / name, str(base), served=one.names, bench=BENCH)
            options = replace(options, instead_of=names) if name == FEW else options
            rounds_run = count()

            def once() -> Measurement:
                with _translated():
                    return run(replace(chosen, traffic=round_of(next(rounds_run))), target, options)

            return once

        runs = {name: runs_of(name, one) for name, one in found.items()}
        asked = {name for number in range(rounds + 1) for name in draw_models(round_of(number), "", names)}
        measured = run_rounds(found, rounds, many.idle_s, runs, sorted(asked - {""}))
        return write_catalogue(out, asdict(chosen), METRICS, found, measured, _command(), machine())


def _command() -> str:
    return "lorecall " + shlex.join(sys.argv[1:])


def _stop(*_: object) -> None:
    """End a comparison with the rounds so far, by an exception, so that the servers are stopped."""
    from lorecall.loadtest.errors import LoadtestError

    raise LoadtestError("stopped by SIGTERM")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn a load test's errors into errors that the command line prints."""
    from lorecall.adapters.core.errors import LorecallError, UsageError
    from lorecall.loadtest.errors import LoadtestError, ScenarioError

    try:
        yield
    except ScenarioError as error:
        raise UsageError(error.message, hint=error.hint, param="scenario") from error
    except LoadtestError as error:
        raise LorecallError(error.message, hint=error.hint) from error


@contextmanager
def _work(out: Path | None) -> Iterator[Path]:
    """Yield the directory for results and logs: `out`, or a temporary one."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="lorecall-loadtest-") as work:
        yield Path(work)
