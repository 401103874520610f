"""The `lorecall` command: one Typer application with all commands."""

import sys

import typer
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.cli import base, bench, law, loadtest, registry, selfcheck, serve, sweep
from lorecall.server.cli.adapters import commands as adapters
from lorecall.server.cli.audit import commands as audit
from lorecall.server.cli.common.console import show_error

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
        show_error(error)
        sys.exit(error.exit_code)
