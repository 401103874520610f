"""`lorecall bench`."""

import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from lorecall.server.cli.common.console import note
from lorecall.server.cli.common.options import PageFolder
from rich.console import Console

HELD = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")
"""Variables that limit a CPU to older instructions; the result names those that are set."""

SECTIONS = ("parity", "lora", "stock", "schemes", "scoring", "overhead", "discovery")


def bench(
    bases: Annotated[
        list[str],
        typer.Option("--base", metavar="SCHEME=DIR", help="A base; repeatable, the main one first."),
    ],
    out: PageFolder = Path("docs/benchmarks"),
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds of each measurement.")] = 7,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SECTIONS)}; repeatable.")] = None,
) -> None:
    """Measure, side by side in one run, what adapters, schemes, scoring and our server cost."""
    import torch
    from lorecall.adapters.core.errors import UsageError
    from lorecall.server.bench.report import Result
    from lorecall.server.engine.start.environment import prepare_environment

    chosen = {}
    for pair in bases:
        scheme, equals, directory = pair.partition("=")
        if not equals or not (Path(directory) / "config.json").is_file():
            raise UsageError(f"--base {pair} is not SCHEME=DIR with a model in DIR", param="base")
        chosen[scheme] = Path(directory)
    unknown = set(only or ()) - set(SECTIONS)
    if unknown:
        raise UsageError(f"--only {min(unknown)} is unknown", hint=f"one of {', '.join(SECTIONS)}")
    prepare_environment()
    signal.signal(signal.SIGTERM, _stop)
    held = "".join(f"{name}={os.environ[name]} " for name in HELD if name in os.environ)
    result = Result(f"{held}lorecall {shlex.join(sys.argv[1:])}", rounds)
    name = "gpu" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        result.notes.append("no GPU here: base against 1, 8 and 32 adapters on an INT4 base was skipped")
    with tempfile.TemporaryDirectory(prefix="lorecall-bench-") as work:
        for section in only or SECTIONS:
            _run(section, result, chosen, Path(work))
            page = result.write(out, name if not only else f"{name}-{'-'.join(only)}")
    Console().print(page.read_text(), markup=False)
    note(f"written: {page}")


def _stop(*_: object) -> None:
    """End the command by an exception, so that the engines and servers that it started are stopped."""
    sys.exit(128 + signal.SIGTERM)


def _run(section: str, result: Any, bases: dict[str, Path], work: Path) -> None:
    from lorecall.server.bench.discovery import bench_discovery
    from lorecall.server.bench.lora import bench_lora, bench_stock_lora
    from lorecall.server.bench.overhead import bench_overhead
    from lorecall.server.bench.parity import bench_parity
    from lorecall.server.bench.schemes import bench_schemes
    from lorecall.server.bench.scoring import bench_scoring

    note(f"measuring {section} ...")
    scheme, main = next(iter(bases.items()))
    if section == "parity":
        result.tables["Parity with transformers and PEFT"] = bench_parity(bases, work)
    elif section == "discovery":
        result.tables["Search of training data for candidates"] = bench_discovery(result.rounds)
    elif section == "lora":
        kinds = [(scheme, "bfloat16"), *((one, "float32") for one in bases)]
        rows = [
            row for one, dtype in kinds for row in bench_lora(bases[one], work, result.rounds, one, dtype)
        ]
        result.sections["What adapters cost"] = rows
    elif section == "stock":
        rows = []
        for one, base in bases.items():
            found, notes = bench_stock_lora(base, work, result.rounds, one)
            rows += found
            result.notes += notes
        result.sections["What adapters cost in stock vLLM"] = rows
    elif section == "schemes":
        reference = "none" if "none" in bases else scheme
        result.sections["Schemes"] = bench_schemes(bases, work, result.rounds, reference)
    elif section == "scoring":
        rows, notes = bench_scoring(main, work, result.rounds)
        result.sections["Scoring"] = rows
        result.notes += notes
    else:
        result.sections["Server"] = bench_overhead(main, work, result.rounds)
