"""Adapters as the control plane's JSON shows them."""

from typing import Any

from lorecall.adapters.registry.records import EventRecord, VersionRecord
from lorecall.server.auth.request_context import manages
from lorecall.server.lifecycle.control_plane import ControlPlane


def describe(
    plane: ControlPlane, name: str, version: str | None = None, *, training: bool = True
) -> dict[str, Any]:
    """Return the JSON object of `GET /v1/adapters/{name}`; reads the registry, so call it in a thread.

    Args:
        plane: The control plane.
        name: The name.
        version: The version to describe; None for the live one, or the newest where none is live.
        training: Whether to show its training record; lists leave it out.

    Raises:
        AdapterNotFoundError: There is no such name.
    """
    adapter = plane.registry.adapter(name)
    versions = plane.registry.versions(name)
    wanted = version or adapter.live_version
    shown = next((one for one in versions if one.version == wanted), versions[0])
    loaded = plane.engine_set.live.get(name)
    return {
        **facts(shown),
        **({"training": shown.training} if training else {}),
        "pinned": adapter.pinned,
        "level": plane.level(name),
        "running": 0 if loaded is None else len(loaded.leases),
        "live_version": adapter.live_version,
        "previous_version": adapter.previous_version,
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


def event(record: EventRecord) -> dict[str, Any]:
    """Return one event of a name's history."""
    return {
        "id": record.id,
        "at": record.at.isoformat(),
        "actor": record.actor,
        "action": record.action,
        "version": record.version,
        **({"detail": record.detail} if record.detail else {}),
    }
