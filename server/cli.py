"""The `lorecall` command: one Typer application over the commands of each floor."""

import sys

import typer
from lorecall.adapters.errors import LorecallError
from lorecall.server import (
    cli_adapters,
    cli_audit,
    cli_base,
    cli_bench,
    cli_law,
    cli_loadtest,
    cli_registry,
    cli_selfcheck,
    cli_serve,
    cli_sweep,
)
from rich.console import Console

app = typer.Typer(
    name="lorecall",
    help="Serve many LoRA adapters over one quantized base, and audit what each has memorised.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_base.app, name="base")
app.add_typer(cli_adapters.app, name="adapters")
app.add_typer(cli_audit.app, name="audit")
app.add_typer(cli_law.app, name="law")
app.add_typer(cli_loadtest.app, name="loadtest")
app.add_typer(cli_registry.app, name="registry")
app.command("sweep")(cli_sweep.sweep)
app.command("bench")(cli_bench.bench)
app.command("selfcheck")(cli_selfcheck.selfcheck)
app.command("serve", context_settings=cli_serve.PASS_THROUGH)(cli_serve.serve)


def main() -> None:
    """Run the command line; a failure with a remedy is printed once and gives its exit code."""
    try:
        app()
    except LorecallError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"error: {error.message}", markup=False, style="bold red")
        if error.hint:
            console.print(f"hint: {error.hint}", markup=False)
        sys.exit(error.exit_code)
