"""`lorecall doctor`."""

from typing import Annotated

import typer
from lorecall.server.cli.common.options import AsJson, Port


def doctor(
    base: Annotated[
        str | None, typer.Option(help="Also check this base, as `lorecall serve` would take it.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on.", show_default="loopback")
    ] = None,
    port: Port = 8000,
    as_json: AsJson = False,
) -> None:
    """Check packages, device, memory, settings, store, registry and port, and say what to change.

    Nothing is changed and no engine is started. The exit code is 2 if a server would not start.
    """
    from dataclasses import asdict

    from lorecall.server.cli.common.console import print_json
    from lorecall.server.doctor.checks import run_checks
    from lorecall.server.doctor.findings import Status
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = list(run_checks(base, host, port))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        table = Table("check", "", "found", "what to change", box=None)
        colours = {Status.OK: "green", Status.ADVICE: "yellow", Status.WRONG: "red"}
        for one in found:
            table.add_row(one.check, Text(one.status, colours[one.status]), Text(one.found), Text(one.change))
        Console(highlight=False).print(table)
    if any(one.status is Status.WRONG for one in found):
        raise typer.Exit(2)
