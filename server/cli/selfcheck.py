"""`lorecall selfcheck`."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def selfcheck(
    server: Annotated[
        str, typer.Option(envvar="LORECALL_SERVER", help="URL of the server.")
    ] = "http://127.0.0.1:8000",
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")] = False,
) -> None:
    """Measure how far a running engine disagrees with itself; audits take the result as their margin."""
    from lorecall.server.cli.common.client import Client

    found = Client(server).call("GET", "/v1/engine/selfcheck")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("compared with the text scored alone", "tokens", "largest |Δ log p|", "mean")
    for name, check in found["checks"].items():
        table.add_row(name, str(check["tokens"]), f"{check['largest']:.2e}", f"{check['mean']:.2e}")
    console = Console()
    console.print(table)
    console.print(f"ε = {found['epsilon']:.2e}: certified over p > {found['threshold']:.4f}")
    console.print(f"over {', '.join(found['models'])}", markup=False)
