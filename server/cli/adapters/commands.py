"""`lorecall adapters`: train adapters here, and manage those of a running server."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from lorecall.adapters.core.errors import LorecallError, UsageError
from lorecall.server.cli.adapters import keys
from lorecall.server.cli.adapters.convert import Base, Initial, Rank, convert, converted
from lorecall.server.cli.adapters.train import train
from lorecall.server.cli.adapters.verify import verify
from lorecall.server.cli.common.client import call, client_of
from lorecall.server.cli.common.console import note, print_json
from lorecall.server.cli.common.ending import INTERNAL
from lorecall.server.cli.common.options import LOCAL, AsJson, Server
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Train adapters, and manage those of a running server.", no_args_is_help=True)
app.command("train")(train)
app.command("convert")(convert)
app.command("verify")(verify)
app.add_typer(keys.app, name="keys")

POLL_S = 1.0
Why = Annotated[str, typer.Option("--reason", help="Why, which its event keeps.")]


@app.command("add")
def add(
    name: str,
    source: Annotated[
        str,
        typer.Option(
            help="PEFT directory or archive on the server, hf://org/name, s3://bucket/key, or with --upload "
            "an archive on this machine."
        ),
    ],
    server: Server = LOCAL,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it in the engine's memory.")] = False,
    upload: Annotated[bool, typer.Option("--upload", help="Send the archive's bytes.")] = False,
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Snippets for the audit that admits it.")
    ] = None,
    controls: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Controls for the audit that admits it.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the audit that admits it.")] = True,
    as_plain: Annotated[
        bool,
        typer.Option(
            "--convert", help="Convert a folder on this machine as `convert` does, and send the result."
        ),
    ] = False,
    base: Base = None,
    initial: Initial = None,
    dora_rank: Rank = None,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Add an adapter under NAME, or move NAME to a new version.

    Where the audit that admits it refuses it: exit 1 for leaks, 3 for an audit that is not complete, 4 where the
    engine disagrees with itself.
    """
    path = Path(source)
    if (upload or as_plain) and (candidates or controls):
        raise UsageError(
            "an upload carries no snippets", hint="leave out --candidates and --controls", param="candidates"
        )
    if as_plain or upload:
        with (
            converted(path, base, initial, dora_rank) if as_plain else nullcontext(path) as archive,
            client_of(server) as client,
        ):
            to = f"{_path(name)}/archive?pin={str(pin).lower()}"
            added = client.upload(to, archive, {"Lorecall-Reason": quote(reason, safe="")})
    else:
        if not path.exists() and not path.is_absolute() and "://" not in source:
            raise UsageError(
                f"{source!r} is not there",
                hint="a folder of this machine, or an address such as hf://org/name or s3://bucket/adapter",
                param="source",
            )
        source = str(path.resolve()) if path.exists() else source
        body = {"name": name, "source": source, "pin": pin, "reason": reason}
        for key, file in {"candidates": candidates, "controls": controls}.items():
            if file is not None:
                body[key] = _snippets(file)
        added = call(server, "POST", "/v1/adapters", body)
    while wait and added["state"] == "auditing":
        time.sleep(POLL_S)
        shown = call(server, "GET", _path(name))
        version = next(one for one in shown["versions"] if one["version"] == added["version"])
        added |= version
    _show([added], as_json=as_json)
    if added["state"] == "quarantined":
        raise typer.Exit(_refusal_code(server, str(added.get("audit_id") or "")))


def _refusal_code(server: str, audit_id: str) -> int:
    """Return the exit code of the gate that refused a version; 3 where that cannot be told."""
    try:
        gate = call(server, "GET", f"/v1/audits/{quote(audit_id, safe='')}")["gate"] if audit_id else None
    except LorecallError as error:
        note(f"the audit {audit_id} cannot be read: {error.message}")
        gate = None
    return int(gate["exit_code"]) if gate else INTERNAL


@app.command("list")
def list_adapters(server: Server = LOCAL, as_json: AsJson = False) -> None:
    """List the adapters of a server."""
    with client_of(server) as client:
        _show(list(client.adapters()), as_json=as_json)


@app.command("show")
def show(name: str, server: Server = LOCAL, as_json: AsJson = False) -> None:
    """Show one adapter and its versions."""
    found = call(server, "GET", _path(name))
    _show([found], as_json=as_json)
    if not as_json:
        table = Table("version", "state", "since", "by", "audit", "reason")
        for one in found["versions"]:
            audit = one["audit_id"][:12]
            table.add_row(
                one["version"][:12], one["state"], one["created_at"], one["created_by"], audit, one["reason"]
            )
        Console().print(table)


@app.command("swap")
def swap(
    name: str,
    source: Annotated[str, typer.Option(help="The new version, as for `add`.")],
    server: Server = LOCAL,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Move an existing NAME to a new version; no request fails, and each is answered by one version."""
    call(server, "GET", _path(name))
    add(name, source, server=server, reason=reason, as_json=as_json)


@app.command("rollback")
def rollback(name: str, server: Server = LOCAL, reason: Why = "", as_json: AsJson = False) -> None:
    """Move NAME back to its previous version."""
    _show([call(server, "POST", f"{_path(name)}/rollback", {"reason": reason})], as_json=as_json)


@app.command("pin")
def pin(
    name: str,
    server: Server = LOCAL,
    off: Annotated[bool, typer.Option("--off", help="Unpin it.")] = False,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Keep NAME in the engine's memory."""
    body = {"pinned": not off, "reason": reason}
    _show([call(server, "POST", f"{_path(name)}/pin", body)], as_json=as_json)


@app.command("override")
def override(
    name: str,
    version: Annotated[str, typer.Option(help="The quarantined version.")],
    reason: Annotated[str, typer.Option(help="The reason, which is recorded.")],
    server: Server = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Let a quarantined version of NAME go live; this needs a key with the scope admin."""
    body = {"version": version, "reason": reason}
    _show([call(server, "POST", f"{_path(name)}/override", body)], as_json=as_json)


@app.command("rm")
def remove(name: str, server: Server = LOCAL, as_json: AsJson = False) -> None:
    """Take an adapter out of service."""
    _show([call(server, "DELETE", _path(name))], as_json=as_json)


def _path(name: str) -> str:
    return f"/v1/adapters/{quote(name, safe='')}"


def _snippets(file: Path) -> list[dict[str, object]]:
    """Return the snippets of a file, read as `lorecall audit run` reads it."""
    from lorecall.audit.inputs.load import load_input

    return [item.record for item in load_input(file).items]


def _show(adapters: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(adapters)
        return
    table = Table("name", "version", "state", "level", "rank", "effective parameters", "pinned", "audit")
    for one in adapters:
        table.add_row(
            one["name"],
            one["version"][:12],
            one["state"],
            one["level"],
            str(one["rank"]),
            f"{one['effective_parameters']:,}",
            "yes" if one["pinned"] else "",
            _verdict(one),
        )
    Console().print(table)
    for one in adapters:
        if one["reason"]:
            note(f"{one['name']}: {one['reason']}")
        for remark in one.get("remarks", []):  # an older server says none
            note(f"{one['name']}: {remark}")
        for reason in one.get("stale") or []:
            note(f"{one['name']}: its last audit no longer holds: {reason}")


def _verdict(adapter: dict[str, Any]) -> str:
    """Return whether an adapter's last audit holds, "" where it has none, or an older server says nothing."""
    stale = adapter.get("stale")
    return "" if stale is None else "stale" if stale else "holds"
