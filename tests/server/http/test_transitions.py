"""Every state of a version, every route that could change it, every kind of key: what happens is in one table.

The registry, its SQLite file, the intake, the control plane, the gate and the gateway are the real ones; the
engine only counts. One name has two versions: OLD, which is live, and THE one that is in the state in question
and that a rollback would go back to.
"""

import asyncio
import io
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.digest import version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE
from lorecall.adapters.registry.tables import State
from lorecall.server.http import adapters, audits
from lorecall.server.lifecycle.control_plane import ControlPlane

from tests.adapters import spoiling
from tests.server.counting_site import Site, make_site

NAME, REMOVED, NEVER = "acme", "removed", "never live"
STATES = (*(str(state) for state in State), NEVER, REMOVED)
"""`retired` was live before, and is what a rollback goes back to; `never live` is retired, too, and is not."""

# Where THE version stands after a request, and which version the name answers with: what callers see changed.
LIVE, UNDER_AUDIT, QUARANTINED, GONE = (
    ("live", "THE"),
    ("auditing", "OLD"),
    ("quarantined", "OLD"),
    ("gone", "-"),
)
BACK, FIRST_AUDIT = ("retired", "OLD"), ("auditing", "-")
Cell = tuple[int, tuple[str, str] | None]
"""An answer's status, and the outcome; None where nothing may change."""

ADDED: dict[str, Cell] = {
    "staged": (201, LIVE), "validated": (201, LIVE), "auditing": (409, None), "live": (201, None),
    "quarantined": (409, None), "retired": (201, LIVE), NEVER: (201, LIVE), REMOVED: (201, LIVE),
}  # fmt: skip
GATED: dict[str, Cell] = {
    "staged": (201, UNDER_AUDIT), "validated": (201, UNDER_AUDIT), "auditing": (201, None), "live": (201, None),
    "quarantined": (201, UNDER_AUDIT), "retired": (201, UNDER_AUDIT), NEVER: (201, UNDER_AUDIT),
    REMOVED: (201, FIRST_AUDIT),
}  # fmt: skip
ROLLED_BACK: dict[str, Cell] = {
    "staged": (409, None), "validated": (409, None), "auditing": (409, None), "live": (200, BACK),
    "quarantined": (409, None), "retired": (200, LIVE), NEVER: (409, None), REMOVED: (404, None),
}  # fmt: skip
OVERRIDDEN: dict[str, Cell] = {
    "staged": (409, None), "validated": (200, LIVE), "auditing": (200, LIVE), "live": (200, None),
    "quarantined": (200, LIVE), "retired": (200, LIVE), NEVER: (409, None), REMOVED: (404, None),
}  # fmt: skip
PINNED: dict[str, Cell] = {**dict.fromkeys(STATES, (200, None)), REMOVED: (404, None)}
DELETED: dict[str, Cell] = {**dict.fromkeys(STATES, (200, GONE)), REMOVED: (404, None)}
CANCELLED: dict[str, Cell] = {
    **dict.fromkeys(STATES, (404, None)), "auditing": (200, QUARANTINED), "quarantined": (200, None),
}  # fmt: skip
LOADED_ANEW: dict[str, Cell] = {**dict.fromkeys(STATES, (400, None)), REMOVED: (200, LIVE)}

# The keys that may use a route. Every other one is refused and changes nothing; `admin` includes the others.
OF_ADAPTERS, OF_AUDITS, OF_ADMIN = {"adapters", "admin"}, {"audit", "admin"}, {"admin"}
CALLERS = ("nobody", "infer", "adapters", "audit", "admin", "stranger")
"""`stranger` may use adapters and audits, of other names; `nobody` has no key."""


@dataclass(frozen=True)
class Route:
    """A request that may change a state.

    Attributes:
        send: Method, path and body, with {the}, {audit} and {source} to fill in; bytes are an archive.
        allowed: Who may send it.
        open: What it does, by state, on a server without a gate.
        gated: The same on one that audits first.
        unseen: The status for a stranger, who does not see the name.
    """

    send: tuple[str, str, dict[str, Any] | None]
    allowed: set[str]
    open: dict[str, Cell]
    gated: dict[str, Cell]
    unseen: int = 404


def answered(status: int, cells: dict[str, Cell]) -> dict[str, Cell]:
    """The same outcomes under another status of success."""
    return {state: (status if code < 400 else code, outcome) for state, (code, outcome) in cells.items()}


LOAD = {"lora_name": NAME, "lora_path": "{source}"}
ROUTES = {
    "add": Route(("POST", "/v1/adapters", {"name": NAME, "source": "{source}"}), OF_ADAPTERS, ADDED, GATED, 403),
    "upload": Route(("POST", f"/v1/adapters/{NAME}/archive", None), OF_ADAPTERS, ADDED, GATED),
    "load": Route(
        ("POST", "/v1/load_lora_adapter", {**LOAD, "load_inplace": True}), OF_ADAPTERS,
        answered(200, ADDED), answered(202, GATED) | {"live": (200, None)}, 403,
    ),
    "load anew": Route(
        ("POST", "/v1/load_lora_adapter", LOAD), OF_ADAPTERS,
        LOADED_ANEW, LOADED_ANEW | {REMOVED: (202, FIRST_AUDIT)}, 403,
    ),
    "rollback": Route(("POST", f"/v1/adapters/{NAME}/rollback", {}), OF_ADAPTERS, ROLLED_BACK, ROLLED_BACK),
    "override": Route(
        ("POST", f"/v1/adapters/{NAME}/override", {"version": "{the}", "reason": "public"}), OF_ADMIN,
        OVERRIDDEN, OVERRIDDEN, 403,
    ),
    "pin": Route(("POST", f"/v1/adapters/{NAME}/pin", {"pinned": True}), OF_ADAPTERS, PINNED, PINNED),
    "delete": Route(("DELETE", f"/v1/adapters/{NAME}", {}), OF_ADAPTERS, DELETED, DELETED),
    "unload": Route(("POST", "/v1/unload_lora_adapter", {"lora_name": NAME}), OF_ADAPTERS, DELETED, DELETED),
    "cancel the audit": Route(("POST", "/v1/audits/{audit}/cancel", {}), OF_AUDITS, CANCELLED, CANCELLED),
    "delete the audit": Route(("DELETE", "/v1/audits/{audit}", {}), OF_AUDITS, CANCELLED, CANCELLED),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server, with the two versions in its folder."""
    work = tmp_path_factory.mktemp("site")
    spoiling.write_adapter(work / "THE", rank=2)
    spoiling.write_adapter(work / "OLD", rank=4)
    yield from make_site(work)


def version_of(site: Site, which: str) -> str:
    """The digest of THE or OLD."""
    return version_digest((site.work / which / CONFIG_FILE).read_bytes(), site.work / which / WEIGHTS_FILE)


def name_of(site: Site, version: str | None) -> str:
    """THE or OLD by its digest; "-" for none."""
    return next((which for which in ("THE", "OLD") if version_of(site, which) == version), "-")


async def bring_to(site: Site, state: str) -> None:
    """Bring THE version into a state, through the steps that lead there."""
    registry, the, old = site.registry, version_of(site, "THE"), version_of(site, "OLD")
    for version in (old, the):
        site.intake.add(NAME, str(site.work / name_of(site, version)), actor="ann")
        if version == the and state == NEVER:
            registry.move(NAME, the, State.RETIRED, actor="ann")
        else:
            registry.activate(NAME, version, actor="ann")
    if state not in (NEVER, "live"):
        registry.rollback(NAME, actor="ann")
    if state in ("staged", "validated", "auditing", "quarantined"):
        registry.stage(NAME, the, source=str(site.work / "THE"), actor="ann")
    if state in ("validated", "auditing", "quarantined"):
        registry.validated(NAME, the, read_adapter(site.work / "THE"), actor="ann")
    if state in ("auditing", "quarantined"):
        await site.gate.admit(registry.version(NAME, the), {})
    if state == "quarantined":
        site.service.cancel(registry.version(NAME, the).audit_id, lambda _name: True)
    if state == REMOVED:
        registry.remove(NAME, actor="ann")


def found(site: Site) -> tuple[str, str]:
    """Where THE version stands, and the name of the one that is live."""
    try:
        the = site.registry.version(NAME, version_of(site, "THE"))
        live = site.registry.adapter(NAME).live_version
    except AdapterNotFoundError:
        return ("gone", "-")
    return (
        str(the.state),
        name_of(site, live),
    )


def filled(value: Any, words: dict[str, str]) -> Any:
    """Put words into a body or a path."""
    if isinstance(value, dict):
        return {key: filled(inner, words) for key, inner in value.items()}
    return value.format(**words) if isinstance(value, str) else value


async def asked(site: Site, route: Route, caller: str) -> int:
    """Send a route's request with a caller's key, and return the status of the answer."""
    method, path, body = route.send
    try:
        audit = site.registry.version(NAME, version_of(site, "THE")).audit_id
    except AdapterNotFoundError:
        audit = ""
    words = {"the": version_of(site, "THE"), "audit": audit or "0" * 32, "source": str(site.work / "THE")}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        file.add(site.work / "THE", "the")
    sent: dict[str, Any] = {"content": archive.getvalue()} if body is None else {"json": filled(body, words)}
    async with site.client(caller) as client:
        answer = await client.request(method, filled(path, words), **sent)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
    return answer.status_code


async def in_each(
    site: Site, state: str, *, gated: bool
) -> AsyncIterator[tuple[str, str, Route, ControlPlane]]:
    """Yield every route and caller, each with a fresh server whose version is in the state."""
    live = sqlite3.connect(site.work / "registry.db")
    empty, ready = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    live.backup(empty)
    try:
        await bring_to(site, state)
        live.backup(ready)
        for name, route in ROUTES.items():
            for caller in CALLERS:
                ready.backup(live)
                yield name, caller, route, await site.plane(gated=gated)
    finally:
        empty.backup(live)
        for connection in (live, empty, ready):
            connection.close()


@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
@pytest.mark.parametrize("state", STATES)
def test_every_route_and_key(site: Site, state: str, gated: bool) -> None:  # noqa: FBT001
    """Who may not call a route changes nothing by it; for who may, the table says what changes."""

    async def walk() -> list[str]:
        wrong = []
        async for name, caller, route, plane in in_each(site, state, gated=gated):
            before, revision = found(site), site.registry.revision()
            status = await asked(site, route, caller)
            after = found(site)
            if caller in route.allowed:
                expected, outcome = (route.gated if gated else route.open)[state]
                right = (status, after) == (expected, outcome or before)
            else:
                expected = 401 if caller == "nobody" else route.unseen if caller == "stranger" else 403
                right = (status, after, site.registry.revision()) == (expected, before, revision)
            held = plane.engine_set.live.get(NAME)
            live = name_of(site, None if held is None else held.version)
            if not right or live != after[1]:
                wrong.append(f"{name} by {caller}: {status}, {before} -> {after}, engine {live}")
        return wrong

    assert asyncio.run(walk()) == []


def test_the_walk_is_whole() -> None:
    """Every state has a row in every table, and every route under our names is in the walk."""
    assert all(set(cells) == set(STATES) for route in ROUTES.values() for cells in (route.open, route.gated))
    sent = {(route.send[0], route.send[1].replace(NAME, "{name}")) for route in ROUTES.values()}
    ours = {
        (method, str(getattr(route, "path", "")).replace("{audit_id}", "{audit}"))
        for router in (adapters.router, audits.router)
        for route in router.routes
        for method in getattr(route, "methods", ())
        if method != "GET"
    }
    idle = {("POST", "/v1/audits"), ("POST", "/v1/audits/estimate")}
    assert ours - sent == idle, "a new audit of a live version changes no state, nor does what it would cost"
