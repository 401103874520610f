"""`lorecall adapters keys`: the API keys of a running server's registry."""

from typing import Annotated, Any

import typer
from lorecall.server.cli.common.client import call
from lorecall.server.cli.common.console import print_json
from lorecall.server.cli.common.options import LOCAL, AsJson, Server
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Manage the API keys of a running server.", no_args_is_help=True)


@app.command("add")
def add(
    name: str,
    scope: Annotated[list[str], typer.Option(help="infer, adapters, audit or admin; repeatable.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of models that it may see, such as 'acme-*'; repeatable."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Prefix of sources that it may add adapters from, such as 'hf://acme/*'; repeatable."
        ),
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.01)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(min=0.01)] = None,
    concurrent: Annotated[int | None, typer.Option(min=1)] = None,
    server: Server = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Make a key; its secret is shown only now. The first key must have the scope admin."""
    limits: dict[str, float | None] = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
    }
    body: dict[str, Any] = {
        "name": name,
        "scopes": scope,
        "adapters": adapter or ["*"],
        "limits": {key: value for key, value in limits.items() if value is not None},
    }
    if source:
        body["sources"] = source
    key = call(server, "POST", "/v1/keys", body)
    _show([key], as_json=as_json)
    if not as_json:
        typer.echo(key["secret"])


@app.command("list")
def list_keys(server: Server = LOCAL, as_json: AsJson = False) -> None:
    """List the keys that are not revoked."""
    _show(call(server, "GET", "/v1/keys")["keys"], as_json=as_json)


@app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], server: Server = LOCAL) -> None:
    """Revoke a key; it ends at once."""
    call(server, "DELETE", f"/v1/keys/{key_id}")


def _show(keys: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(keys)
        return
    table = Table("id", "name", "scopes", "adapters", "sources", "limits", "expires")
    for key in keys:
        limits = ", ".join(f"{name} {value:g}" for name, value in key["limits"].items() if value is not None)
        table.add_row(
            key["id"],
            key["name"],
            " ".join(key["scopes"]),
            " ".join(key["adapters"]),
            "any" if key["sources"] is None else " ".join(key["sources"]) or "uploads",
            limits,
            key["expires_at"] or "",
        )
    Console().print(table)
