"""`lorecall adapters`: train adapters here, and add, list, show and remove them on a running server."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from lorecall.server.cli_train import train
from lorecall.server.client import Client
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Train adapters, and manage those of a running server.", no_args_is_help=True)
app.command("train")(train)

Server = Annotated[str, typer.Option(envvar="LORECALL_SERVER", help="URL of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")]
LOCAL = "http://127.0.0.1:8000"


@app.command("add")
def add(
    name: str,
    source: Annotated[str, typer.Option(help="PEFT directory of the adapter, as the server sees it.")],
    server: Server = LOCAL,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it in the engine's slots.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add an adapter under NAME, or move NAME to a new version."""
    path = Path(source)
    body = {"name": name, "source": str(path.resolve()) if path.exists() else source, "pin": pin}
    _show([Client(server).call("POST", "/v1/adapters", body)], as_json=as_json)


@app.command("list")
def list_adapters(server: Server = LOCAL, as_json: AsJson = False) -> None:
    """List the adapters of a server."""
    _show(Client(server).call("GET", "/v1/adapters")["adapters"], as_json=as_json)


@app.command("show")
def show(name: str, server: Server = LOCAL, as_json: AsJson = False) -> None:
    """Show one adapter."""
    _show([Client(server).call("GET", f"/v1/adapters/{name}")], as_json=as_json)


@app.command("rm")
def remove(name: str, server: Server = LOCAL, as_json: AsJson = False) -> None:
    """Take an adapter out of service."""
    _show([Client(server).call("DELETE", f"/v1/adapters/{name}")], as_json=as_json)


def _show(adapters: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(adapters, indent=2))
        return
    table = Table("name", "version", "state", "rank", "effective parameters", "pinned")
    for one in adapters:
        table.add_row(
            one["name"],
            one["version"][:12],
            one["state"],
            str(one["rank"]),
            f"{one['effective_parameters']:,}",
            "yes" if one["pinned"] else "",
        )
    Console().print(table)
