"""Adapters as the control plane's JSON shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lorecall.adapters.peft_format.companions import template_digest
from lorecall.adapters.registry.records import AdapterRecord, EventRecord, VersionRecord, shown_version
from lorecall.server.auth.request_context import manages, operates, sees
from lorecall.server.lifecycle.control_plane import ControlPlane


def describe(plane: ControlPlane, name: str, version: str | None = None) -> dict[str, Any]:
    """Return the JSON object of `GET /v1/adapters/{name}`; reads the registry, so call it in a thread.

    Args:
        plane: The control plane.
        name: The name.
        version: The version to describe; None for the live one, or the newest where none is live.

    Raises:
        AdapterNotFoundError: There is no such name.
    """
    adapter, versions = plane.registry.adapter(name), plane.registry.versions(name)
    shown = shown_version(adapter, versions, version)
    stale = _stale(plane, [adapter])[name]
    return {**_described(plane, adapter, versions, shown, stale), "training": shown.training}


def describe_page(
    plane: ControlPlane, after: str, limit: int, contains: str = ""
) -> tuple[list[dict[str, Any]], bool]:
    """Return the objects of `GET /v1/adapters` that follow a name and contain a text, and whether there are more.

    It reads the registry, so call it in a thread, in the request's context: names that the caller may not see
    are left out.
    """
    found: list[dict[str, Any]] = []
    while page := plane.registry.adapters(after=after, contains=contains, limit=limit + 1):
        seen = [adapter for adapter in page if sees(adapter.name)]
        versions, stale = plane.registry.versions_of([adapter.name for adapter in seen]), _stale(plane, seen)
        found += [
            _described(plane, adapter, known, shown_version(adapter, known), stale[adapter.name])
            for adapter in seen
            if (known := versions.get(adapter.name))  # else it was removed meanwhile
        ]
        if len(found) > limit or len(page) <= limit:
            break
        after = page[-1].name
    return found[:limit], len(found) > limit


def _stale(plane: ControlPlane, adapters: Sequence[AdapterRecord]) -> Mapping[str, list[str] | None]:
    """Return why the last audit of each adapter is stale; None where nothing is live, or no audit is done."""
    live = {one.name: one.live_version for one in adapters}
    return dict.fromkeys(live) if plane.staleness is None else plane.staleness.shown(live)


def _described(
    plane: ControlPlane,
    adapter: AdapterRecord,
    versions: Sequence[VersionRecord],
    shown: VersionRecord,
    stale: list[str] | None,
) -> dict[str, Any]:
    loaded = plane.engine_set.live.get(adapter.name)
    here = {"refusal": loaded.info.refusal} if loaded and loaded.version == shown.version else {}
    return {
        **facts(plane.intake.served(shown)),
        **here,  # the registry has that of the server which took it in
        "pinned": adapter.pinned,
        "level": plane.level(adapter.name),
        "running": 0 if loaded is None else len(loaded.leases),
        "live_version": adapter.live_version,
        "previous_version": adapter.previous_version,
        "stale": stale,
        "versions": [brief(one) for one in versions],
    }


def facts(record: VersionRecord) -> dict[str, Any]:
    """Return the fields of one version."""
    return {
        "name": record.name,
        "version": record.version,
        "state": record.state.value,
        "reason": record.reason if manages() else "",
        "audit_id": record.audit_id,
        "rank": record.rank,
        "effective_parameters": record.effective_parameters,
        "refusal": record.refusal,
        "remarks": record.remarks,
        "chat_template": template_digest(record.chat_template),
        "base_digest": record.base_digest,
        "source": record.source if manages() else None,
    }


def brief(record: VersionRecord) -> dict[str, Any]:
    """Return one version in the list of a name's versions."""
    return {
        "version": record.version,
        "state": record.state.value,
        "reason": record.reason if manages() else "",
        "audit_id": record.audit_id,
        "created_at": record.created_at.isoformat(),
        "created_by": record.created_by,
    }


def events_page(
    plane: ControlPlane, name: str | None, *, after: int | None, before: int | None, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return events, oldest first, and whether there are more in that direction; see `Registry.events`.

    It reads the registry, so call it in a thread, in the request's context: events of names that the caller may
    not see are left out, and those of no name, which are about API keys, for all but the operator.
    """
    found: list[EventRecord] = []
    while page := plane.registry.events(name, after=after, before=before, limit=limit + 1):
        seen = [one for one in page if (sees(one.name) if one.name else operates())]
        found = [*seen, *found] if after is None else [*found, *seen]
        if len(found) > limit or len(page) <= limit:
            break
        before, after = (page[0].id, None) if after is None else (None, page[-1].id)
    kept = found[-limit:] if after is None else found[:limit]
    return [event(one) for one in kept], len(found) > limit


def event(record: EventRecord) -> dict[str, Any]:
    """Return one event."""
    return {
        "id": record.id,
        **({"name": record.name} if record.name else {}),
        "at": record.at.isoformat(),
        "actor": record.actor,
        "action": record.action,
        "version": record.version,
        **({"detail": record.detail} if record.detail else {}),
    }
