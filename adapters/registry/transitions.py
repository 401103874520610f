"""The steps that the registry's transactions consist of."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.adapters.core.refusals import safe_repr
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.tables import AdapterRow, EventRow, State, VersionRow
from sqlalchemy.orm import Session

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.STAGED: frozenset({State.VALIDATED, State.RETIRED}),
    State.VALIDATED: frozenset({State.AUDITING, State.LIVE, State.RETIRED}),
    State.AUDITING: frozenset({State.LIVE, State.QUARANTINED, State.RETIRED}),
    State.LIVE: frozenset({State.QUARANTINED, State.RETIRED}),
    State.QUARANTINED: frozenset({State.AUDITING, State.LIVE, State.RETIRED}),  # to live: only by override
    State.RETIRED: frozenset({State.STAGED, State.LIVE}),  # to live: only the one before, by rollback
}
_MAX_TEXT = 2000


class ConflictError(LorecallError):
    """The registry, or an audit, is not in the state that a step needs."""

    exit_code = 2
    status = 409
    code = "conflict"


def find_adapter(session: Session, name: str) -> AdapterRow:
    """The row of a name.

    Raises:
        AdapterNotFoundError: There is none, or it was removed.
    """
    adapter = session.get(AdapterRow, name) if is_safe_identifier(name) else None
    if adapter is None or adapter.removed:
        raise no_adapter(name)
    return adapter


def no_adapter(name: str) -> AdapterNotFoundError:
    """The error of a name that does not exist."""
    return AdapterNotFoundError(f"there is no adapter {safe_repr(name)}", param="name")


def find_version(session: Session, name: str, version: str) -> VersionRow:
    """The row of one version of a name.

    Raises:
        AdapterNotFoundError: There is no such name or version.
    """
    find_adapter(session, name)
    row = session.get(VersionRow, (name, version)) if is_safe_identifier(version) else None
    if row is None:
        raise AdapterNotFoundError(f"{name} has no version {safe_repr(version[:64])}", param="version")
    return row


def new_version(name: str, version: str) -> VersionRow:
    """A new row with name and version; its other facts are still empty."""
    return VersionRow(
        name=name,
        version=version,
        was_live=False,
        rank=0,
        effective_parameters=0,
        base_digest="",
        refusal="",
        training={},
        remarks=[],
        chat_template="",
    )


def stage_version(
    session: Session, revision: int, name: str, version: str, source: str, actor: str, reason: str = ""
) -> VersionRow:
    """Return a name's version, made or staged again if it is new or retired; see `Registry.stage`."""
    adapter = session.get(AdapterRow, name)
    if adapter is None:
        adapter = AdapterRow(name=name, pinned=False, removed=False, revision=revision)
        session.add(adapter)
        session.flush()
    row = session.get(VersionRow, (name, version))
    if row is None:
        row = new_version(name, version)
        session.add(row)
    elif row.state is not State.RETIRED:
        return row
    adapter.removed, adapter.revision = False, revision
    row.state, row.reason, row.audit_id = State.STAGED, "", ""
    row.source, row.created_at = plain_text(source), datetime.now(UTC)
    row.created_by = plain_text(actor)
    record_event(session, revision, actor, "stage", name, version, source=source, reason=reason)
    return row


def validate_version(
    session: Session, revision: int, row: VersionRow, info: Adapter, actor: str
) -> VersionRow:
    """Record what a staged version is, and return it; see `Registry.validated`."""
    move_version(session, row, State.VALIDATED, revision)
    row.rank, row.effective_parameters = info.rank, info.effective_parameters
    row.base_digest, row.refusal = plain_text(info.base_digest), plain_text(info.refusal)
    row.training, row.remarks = info.training, [plain_text(remark) for remark in info.remarks]
    row.chat_template = info.chat_template
    record_event(session, revision, actor, "validate", row.name, row.version)
    return row


def move_version(
    session: Session, row: VersionRow, state: State, revision: int, *, reason: str = "", audit_id: str = ""
) -> None:
    """Move a version to another state, and mark its name as changed.

    Raises:
        ConflictError: That step is not in `TRANSITIONS`.
    """
    following = TRANSITIONS.get(row.state, frozenset())  # of a newer release's state we know none
    if state not in following:
        allowed = ", ".join(sorted(following)) or "nothing that this release knows"
        raise ConflictError(
            f"version {row.version[:12]} of {row.name} is {row.state}, which does not become {state}",
            hint=f"it can become: {allowed}",
        )
    adapter = find_adapter(session, row.name)
    if row.state is State.LIVE:
        adapter.live_version = None
    if state is State.QUARANTINED:
        row.was_live = False  # whatever allowed it once, no rollback brings it back
    row.state, row.reason = state, plain_text(reason)
    row.audit_id = audit_id or row.audit_id
    adapter.revision = revision


def activate_version(
    session: Session,
    adapter: AdapterRow,
    row: VersionRow,
    revision: int,
    *,
    audit_id: str = "",
    override: bool = False,
) -> None:
    """Point a name at a version and retire the version it pointed at.

    This is the only step that makes a version live, so it holds the gate: a version under audit needs the id of
    that audit, and one in quarantine an override, whoever asks and by whichever method.

    Raises:
        ConflictError: The version is in no state to go live.
    """
    if row.state is State.QUARANTINED and not override:
        raise ConflictError(
            f"version {row.version[:12]} of {row.name} is quarantined: {row.reason}",
            hint="audit it again, or override with a reason",
        )
    if row.state is State.AUDITING and not override and (not audit_id or audit_id != row.audit_id):
        raise ConflictError(
            f"version {row.version[:12]} of {row.name} is under audit", hint="wait for the audit to end"
        )
    if row.state is State.RETIRED and not (row.was_live and row.version == adapter.previous_version):
        raise ConflictError(  # the store may have deleted its bytes: see `Registry.wanted_versions`
            f"version {row.version[:12]} of {row.name} is retired and not the one to go back to",
            hint="add it again",
        )
    before = adapter.live_version
    if before is not None:
        old = find_version(session, adapter.name, before)
        move_version(session, old, State.RETIRED, revision, reason=f"replaced by {row.version[:12]}")
        session.flush()  # the index `one_live_version` allows no second one
    move_version(session, row, State.LIVE, revision, audit_id=audit_id)
    row.was_live = True
    kept = adapter.previous_version if adapter.previous_version != row.version else None
    adapter.live_version, adapter.previous_version = row.version, before or kept


def record_event(
    session: Session, revision: int, actor: str, action: str, name: str, version: str, **detail: Any
) -> None:
    """Record who did what; empty details are left out."""
    texts = {key: plain_text(value) if isinstance(value, str) else value for key, value in detail.items()}
    session.add(
        EventRow(
            revision=revision,
            at=datetime.now(UTC),
            actor=plain_text(actor),
            action=action,
            name=name,
            version=version,
            detail={key: value for key, value in texts.items() if value},
        )
    )


def is_safe_identifier(value: str) -> bool:
    """Whether a text from outside can be a name, version or id; databases do not accept every text."""
    return value.isascii() and value.isprintable()


def plain_text(value: str) -> str:
    """The text as every database accepts it: without NUL and lone surrogates, of bounded length."""
    return value.replace("\0", "").encode(errors="replace").decode()[:_MAX_TEXT]
