"""`lorecall bench-gpu`: everything that only a GPU can show, in one command."""

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from lorecall.server.cli.common.console import note
from lorecall.server.cli.common.options import PageFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorecall.server.bench.gpu.stages import StageResult

REHEARSED = (
    "**A rehearsal on a CPU, with a tiny random base: the stages ran, and no number means anything.**\n\n"
)


def bench_gpu(
    out: PageFolder = Path("docs/benchmarks"),
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Time for all stages together; their limits are in proportion.",
            show_default="540",
        ),
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for bases and logs; kept.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this stage alone; repeatable.")] = None,
    attention_backend: Annotated[
        str, typer.Option(help="vLLM's flag, for all engines.", show_default="vLLM's choice")
    ] = "",
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Run the stages small on a CPU, into gpu-rehearsal.md: it tests the command."
        ),
    ] = False,
) -> None:
    """Check and measure on a GPU, stage by stage, and write gpu.md after each; without a GPU say so."""
    from lorecall.adapters.core.atomic_file import write_whole
    from lorecall.adapters.core.errors import UsageError
    from lorecall.server.bench.gpu.plan import GOALS, SECONDS, gpu_stages
    from lorecall.server.bench.gpu.stages import page_of, run_stages
    from lorecall.server.bench.report import machine, machine_line

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the stage would go on
    limit = SECONDS if seconds is None else seconds
    folder = (work or Path(tempfile.mkdtemp(prefix="lorecall-gpu-"))).absolute()
    stages = gpu_stages(folder, rehearse=rehearse, attention=attention_backend, stretch=limit / SECONDS)
    names = [stage.name for stage in stages]
    if unknown := set(only or ()) - set(names):
        raise UsageError(f"--only {min(unknown)} is unknown", hint=f"one of {', '.join(names)}", param="only")
    stages = [stage for stage in stages if not only or stage.name in only]
    reason = "" if rehearse else missing_gpu()
    here = machine()
    about = f"{here['date']}. {machine_line('lorecall bench-gpu', here)}"
    page = out / ("gpu-rehearsal.md" if rehearse else "gpu.md")
    if not reason:
        out.mkdir(parents=True, exist_ok=True)

    def show(results: "Sequence[StageResult]") -> None:
        last = results[-1]
        note(f"{last.stage.name}: {last.state}{f': {last.why}' if last.why else ''} ({last.seconds:.0f} s)")
        if not reason:
            write_whole(page, page_of(results, stages, (REHEARSED if rehearse else "") + about, GOALS))

    results = run_stages(stages, folder, seconds=limit, no_gpu=reason, on_result=show)
    if not reason:
        note(f"written: {page}; logs: {folder}")
    if any(result.state in ("failed", "over its limit") for result in results):
        raise typer.Exit(1)


def missing_gpu() -> str:
    """Return why there is no GPU here, "" where there is one."""
    import torch

    return "" if torch.cuda.is_available() else "PyTorch finds no GPU on this machine"
