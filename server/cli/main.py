"""The `lorecall` command: one Typer application with all commands."""

import sys

import typer
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.cli import base, bench, law, loadtest, registry, selfcheck, serve, sweep
from lorecall.server.cli.adapters import commands as adapters
from lorecall.server.cli.audit import commands as audit
from rich.console import Console

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
app.command("selfcheck")(selfcheck.selfcheck)
app.command("serve", context_settings=serve.PASS_THROUGH)(serve.serve)


def main() -> None:
    """Run the command line; print a LorecallError with its hint, and exit with its code."""
    try:
        app()
    except LorecallError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"error: {error.message}", markup=False, style="bold red")
        if error.hint:
            console.print(f"hint: {error.hint}", markup=False)
        sys.exit(error.exit_code)
