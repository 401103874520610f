"""The registry keeps one truth about names and versions, on SQLite and on PostgreSQL alike."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.adapters.core.refusals import NameRefusedError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry import registry as registry_module
from lorecall.adapters.registry.records import AdapterRecord, VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import EventRow, State, VersionRow
from lorecall.adapters.registry.transitions import TRANSITIONS, ConflictError
from sqlalchemy import Connection, event, update

A, B, C = "a" * 64, "b" * 64, "c" * 64
INFO = Adapter(
    path=Path("unused"),
    rank=8,
    modules=(),
    effective_parameters=5_000_000_000,
    version=A,
    refusal="it adapts lm_head",
    base_digest="d" * 64,
    training={"seed": 1, "text": "\x00\ud800"},
)


def bring(registry: Registry, name: str, version: str, state: State) -> None:
    """Take a new version to a state by allowed steps."""
    registry.stage(name, version, source="s3://bucket/x", actor="test")
    if state is State.STAGED:
        return
    registry.validated(name, version, INFO, actor="test")
    if state in (State.AUDITING, State.QUARANTINED):
        registry.move(name, version, State.AUDITING, actor="test")
    if state is State.LIVE:
        registry.activate(name, version, actor="test")
    elif state in (State.QUARANTINED, State.RETIRED):
        registry.move(name, version, state, actor="test", reason="because", audit_id="audit-1")


def live(registry: Registry) -> dict[str, VersionRecord]:
    """The live version of every name that has one; a name never has two."""
    found = [one for name in registry.adapters() for one in registry.versions(name.name)]
    alive = [one for one in found if one.state is State.LIVE]
    assert len({one.name for one in alive}) == len(alive)
    return {one.name: one for one in alive}


@pytest.mark.parametrize("before", [None, State.STAGED, State.AUDITING, State.LIVE, State.RETIRED])
def test_taking_in_is_staging_and_validating(registry: Registry, before: State | None) -> None:
    """A new version, one that was only staged and a retired one are validated; any other one stays as it is."""
    if before is not None:
        bring(registry, "acme", A, before)
    untouched = registry.version("acme", A) if before in (State.AUDITING, State.LIVE) else None
    found = registry.taken_in("acme", replace(INFO, version=A), source="here", actor="ann")
    assert found == registry.version("acme", A)
    assert found.state is (State.VALIDATED if untouched is None else before)
    assert untouched in (None, found)
    assert (found.rank, found.training) == (INFO.rank, INFO.training)


def test_a_version_lives(registry: Registry) -> None:
    """From staged to live to retired, with the facts of the adapter and every step with its actor."""
    staged = registry.stage("acme", A, source="s3://bucket/acme", actor="ann")
    assert (staged.state, staged.source, staged.created_by) == (State.STAGED, "s3://bucket/acme", "ann")
    assert staged.created_at.utcoffset() is not None
    assert registry.adapter("acme").live_version is None
    validated = registry.validated("acme", A, INFO, actor="server")
    assert (validated.rank, validated.effective_parameters) == (INFO.rank, INFO.effective_parameters)
    assert (validated.refusal, validated.base_digest) == (INFO.refusal, INFO.base_digest)
    registry.move("acme", A, State.AUDITING, actor="gate", audit_id="audit-7")
    assert registry.activate("acme", A, actor="gate", audit_id="audit-7").live_version == A
    assert live(registry)["acme"].audit_id == "audit-7"
    assert registry.version("acme", A).training == INFO.training
    registry.move("acme", A, State.RETIRED, actor="bob", reason="no longer wanted")
    assert registry.adapter("acme").live_version is None
    assert live(registry) == {}
    events = registry.events("acme")
    assert [(event.actor, event.action, event.version) for event in events] == [
        ("ann", "stage", A), ("server", "validate", A), ("gate", "auditing", A), ("gate", "activate", A),
        ("bob", "retired", A),
    ]  # fmt: skip
    assert events[-1].detail == {"reason": "no longer wanted"}
    assert [event.revision for event in events] == sorted({event.revision for event in events})


def steps_to(registry: Registry) -> dict[State, Callable[[], object]]:
    """How each state is asked for, for version A of "acme"."""
    return {
        State.STAGED: lambda: registry.stage("acme", A, source="again", actor="test"),
        State.VALIDATED: lambda: registry.validated("acme", A, INFO, actor="test"),
        State.AUDITING: lambda: registry.move("acme", A, State.AUDITING, actor="test"),
        State.LIVE: lambda: registry.activate("acme", A, actor="test"),
        State.QUARANTINED: lambda: registry.move("acme", A, State.QUARANTINED, actor="test"),
        State.RETIRED: lambda: registry.move("acme", A, State.RETIRED, actor="test"),
    }


@pytest.mark.parametrize("start", State)
@pytest.mark.parametrize("target", State)
def test_transitions(registry: Registry, start: State, target: State) -> None:
    """Every step that is not in the table is refused and changes nothing; the others happen."""
    bring(registry, "acme", A, start)
    before = registry.version("acme", A)
    assert before.state is start
    step = steps_to(registry)[target]
    needs_more = {
        (State.QUARANTINED, State.LIVE),
        (State.AUDITING, State.LIVE),
        (State.RETIRED, State.LIVE),
    }  # an override; its audit or an override; having been live
    idempotent = target is State.STAGED or (start, target) == (State.LIVE, State.LIVE)
    if target in TRANSITIONS[start] and (start, target) not in needs_more:
        step()
        assert registry.version("acme", A).state is target
    elif idempotent:
        step()
        assert registry.version("acme", A) == before
    else:
        with pytest.raises(ConflictError):
            step()
        assert registry.version("acme", A) == before


def test_swap_and_rollback(registry: Registry) -> None:
    """A swap retires the old version; rollback brings it back, and rollback again brings the new one back."""
    bring(registry, "acme", A, State.LIVE)
    with pytest.raises(ConflictError, match="no version to go back to"):
        registry.rollback("acme", actor="test")
    bring(registry, "acme", B, State.LIVE)
    for live, other in ((A, B), (B, A), (A, B)):
        adapter = registry.rollback("acme", actor="test")
        assert (adapter.live_version, adapter.previous_version) == (live, other)
        assert registry.version("acme", live).state is State.LIVE
        assert registry.version("acme", other).state is State.RETIRED
    assert [record.version for record in registry.versions("acme")] == [B, A]


def test_rollback_after_quarantine(registry: Registry) -> None:
    """A live version that is quarantined leaves the name empty; rollback fills it with the one before."""
    bring(registry, "acme", A, State.LIVE)
    bring(registry, "acme", B, State.LIVE)
    registry.move("acme", B, State.QUARANTINED, actor="gate", reason="12 certified", audit_id="audit-9")
    assert registry.adapter("acme").live_version is None
    assert registry.rollback("acme", actor="test").live_version == A
    assert registry.version("acme", B).reason == "12 certified"


NO_WAY_PAST = [
    (State.STAGED, ("activate", "another audit", "rollback")),
    (State.VALIDATED, ("rollback",)),  # where no gate is set, it is activated as it is
    (State.AUDITING, ("activate", "another audit", "rollback")),
    (State.QUARANTINED, ("activate", "another audit", "rollback", "rollback once retired")),
]


@pytest.mark.parametrize(("state", "way"), [(state, way) for state, ways in NO_WAY_PAST for way in ways])
def test_nothing_but_its_audit_or_an_override_lifts_the_gate(
    registry: Registry, state: State, way: str
) -> None:
    """A version that was live, is replaced and added again is no way past the gate, in whatever state it is."""
    bring(registry, "acme", A, State.LIVE)
    bring(registry, "acme", B, State.LIVE)
    bring(registry, "acme", A, state)
    if way == "rollback once retired":
        registry.move("acme", A, State.RETIRED, actor="ann")
    audit = "audit-0" if way == "another audit" else ""
    steps: dict[bool, Callable[[], object]] = {
        True: lambda: registry.rollback("acme", actor="ann"),
        False: lambda: registry.activate("acme", A, actor="ann", audit_id=audit),
    }
    with pytest.raises(ConflictError):
        steps[way.startswith("rollback")]()
    assert live(registry)["acme"].version == B


def test_override_is_needed_and_recorded(registry: Registry) -> None:
    """A quarantined version goes live only with a stated reason, which stays in the events."""
    bring(registry, "acme", A, State.QUARANTINED)
    with pytest.raises(ConflictError, match="quarantined: because"):
        registry.activate("acme", A, actor="ann")
    registry.activate("acme", A, actor="ann", override="the line is public domain")
    event = registry.events("acme")[-1]
    assert (event.actor, event.detail) == ("ann", {"override": "the line is public domain"})
    assert live(registry)["acme"].audit_id == "audit-1"


def test_removed_name_starts_from_nothing(registry: Registry) -> None:
    """A removed name is gone; added again it cannot be rolled back into, or past the gate."""
    bring(registry, "acme", A, State.LIVE)
    bring(registry, "acme", B, State.LIVE)
    registry.pin("acme", pinned=True, actor="test")
    registry.remove("acme", actor="test")
    assert (registry.adapters(), live(registry)) == ((), {})
    for call in (registry.adapter, registry.versions, lambda name: registry.rollback(name, actor="test")):
        with pytest.raises(AdapterNotFoundError):
            call("acme")
    registry.stage("acme", A, source="again", actor="test")
    assert not registry.adapter("acme").pinned
    with pytest.raises(ConflictError):
        registry.activate("acme", B, actor="test")
    with pytest.raises(ConflictError):
        registry.rollback("acme", actor="test")


def test_no_reader_sees_a_name_without_or_with_two_versions(registry: Registry, registry_url: str) -> None:
    """While a name is swapped a hundred times, every reader finds exactly one live version."""
    bring(registry, "acme", A, State.LIVE)
    bring(registry, "acme", B, State.LIVE)
    done = threading.Event()
    reader = Registry(registry_url)

    def read() -> set[str]:
        found = set()
        while not done.is_set():
            found.add(live(reader)["acme"].version)
            assert reader.adapter("acme").live_version in (A, B)
        return found

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(100):
                registry.rollback("acme", actor="test")
        finally:
            done.set()
        assert {version for found in readers for version in found.result()} == {A, B}
    reader.close()


def test_followers_miss_nothing(registry: Registry, registry_url: str) -> None:
    """Servers that apply only `changes` end with the registry's own list, however the writers interleave."""
    writers_done = threading.Event()

    def write(number: int) -> None:
        mine = Registry(registry_url)
        for turn in range(6):
            name = f"adapter-{number}-{turn % 3}"
            bring(mine, name, f"{number:032x}{turn:032x}", State.LIVE)
            if turn == 4:
                mine.remove(name, actor=f"writer {number}")
        mine.close()

    def follow() -> dict[str, AdapterRecord]:
        mine = Registry(registry_url)
        known: dict[str, AdapterRecord] = {}
        since, last = 0, False
        while not last:
            last = writers_done.is_set()
            changes = mine.changes(since)
            assert changes.revision >= since
            since = changes.revision
            known |= {record.name: record for record in changes.adapters}
        mine.close()
        return {name: record for name, record in known.items() if not record.removed}

    with ThreadPoolExecutor(6) as pool:
        followers = [pool.submit(follow) for _ in range(2)]
        try:
            for writer in [pool.submit(write, number) for number in range(4)]:
                writer.result()
        finally:
            writers_done.set()
        truth = {record.name: record for record in registry.adapters()}
        assert truth
        assert all(follower.result() == truth for follower in followers)
    revisions = [event.revision for event in registry.events(limit=10_000)]
    assert revisions == sorted(revisions)


def test_restart_remembers(registry: Registry, registry_url: str) -> None:
    """What was registered is there when the registry is opened again."""
    bring(registry, "acme", A, State.LIVE)
    registry.pin("acme", pinned=True, actor="test")
    again = Registry(registry_url)
    assert again.adapters() == registry.adapters()
    assert live(again) == live(registry)
    assert again.adapter("acme").pinned
    again.close()


def test_pinning_again_is_no_change(registry: Registry) -> None:
    """Pinning what is pinned leaves the name's revision and the events alone."""
    bring(registry, "acme", A, State.STAGED)
    first = registry.pin("acme", pinned=True, actor="test")
    assert registry.pin("acme", pinned=True, actor="test") == first
    assert [event.action for event in registry.events()].count("pin") == 1


def test_refusals_can_be_noted(registry: Registry) -> None:
    """An upload that was refused leaves a trace though no version of it exists."""
    registry.record_event("refuse", "acme", actor="ann", reason="pickle")
    assert registry.events("acme")[0].detail == {"reason": "pickle"}
    assert registry.adapters() == ()


@pytest.mark.parametrize("text", ["\x00", "\ud800", "x" * 100_000, "'; DROP TABLE adapters; --", "\u202e"])
def test_hostile_text(registry: Registry, text: str) -> None:
    """Whatever text comes from outside is stored or refused, and never breaks the database."""
    with pytest.raises(NameRefusedError):
        registry.stage(f"a{text} ", A, source="x", actor="test")
    registry.stage("acme", A, source=f"s3://{text}", actor=f"key {text}")
    registry.move("acme", A, State.RETIRED, actor="test", reason=text)
    for call in (
        lambda: registry.adapter(text),
        lambda: registry.version("acme", text),
    ):
        with pytest.raises(LorecallError) as caught:
            call()
        assert caught.value.status == 404
    assert registry.adapters()[0].name == "acme"


def test_what_is_live_is_always_wanted(registry: Registry, registry_url: str) -> None:
    """A rollback on another connection between two reads of the collector's: the live version is still found."""
    bring(registry, "acme", A, State.LIVE)
    bring(registry, "acme", B, State.LIVE)
    other, reads = Registry(registry_url), []

    def roll_back(*_: object) -> None:
        reads.append(1)
        if len(reads) == 1:
            other.rollback("acme", actor="ann")

    event.listen(registry.database._engine, "after_cursor_execute", roll_back)
    wanted = registry.wanted_versions()
    event.remove(registry.database._engine, "after_cursor_execute", roll_back)
    assert registry.adapter("acme").live_version == A, "the rollback happened"
    assert wanted == {A, B}
    other.close()


@pytest.mark.parametrize("state", State)
def test_nothing_else_can_go_live(registry: Registry, state: State) -> None:
    """A version that the collector may delete goes live in no other way than by being added again."""
    for version in (A, B, C):
        bring(registry, "acme", version, State.LIVE)
    if state is not State.RETIRED:
        bring(registry, "acme", A, state)
    collectable = A not in registry.wanted_versions()
    assert collectable == (state is State.RETIRED)
    if collectable:
        for override in ("", "I want it"):
            with pytest.raises(ConflictError, match="not the one to go back to"):
                registry.activate("acme", A, actor="ann", override=override)


def test_a_state_of_a_newer_release_takes_no_list_down(registry: Registry) -> None:
    """It is shown and kept in the store; of the steps of this release only removing the name is possible."""
    bring(registry, "acme", A, State.LIVE)
    bring(registry, "acme", B, State.VALIDATED)
    with registry.database.change() as session:
        session.execute(update(VersionRow).where(VersionRow.version == B).values(state="paused"))
    assert {one.version: str(one.state) for one in registry.versions("acme")} == {A: "live", B: "paused"}
    assert registry.version("acme", B).state not in list(State)
    assert B in registry.wanted_versions()
    assert str(registry.stage("acme", B, source="x", actor="ann").state) == "paused"
    for step in (
        lambda: registry.activate("acme", B, actor="ann", override="I want it"),
        lambda: registry.move("acme", B, State.RETIRED, actor="ann"),
    ):
        with pytest.raises(ConflictError, match="is paused, which does not become"):
            step()
    assert str(registry.version("acme", B).state) == "paused"
    assert live(registry)["acme"].version == A
    registry.remove("acme", actor="ann")


def test_events_come_in_pages(registry: Registry) -> None:
    """The newest page first, then backwards by `before`, and forwards by `after`: each event comes once."""
    for number in range(7):
        registry.record_event("refuse", "acme", actor="ann", number=number + 1)
        registry.record_event("refuse", "other", actor="ann")
    every = registry.events("acme")
    assert [one.detail["number"] for one in every] == [1, 2, 3, 4, 5, 6, 7]
    back = [page := registry.events("acme", limit=3)]
    while page := registry.events("acme", before=page[0].id, limit=3):
        back.append(page)
    assert [one for page in reversed(back) for one in page] == list(every)
    assert [len(page) for page in back] == [3, 3, 1]
    forth = [page := registry.events("acme", after=0, limit=3)]
    while page := registry.events("acme", after=page[-1].id, limit=3):
        forth.append(page)
    assert [one for page in forth for one in page] == list(every)
    assert registry.events("acme", after=every[1].id, before=every[4].id) == every[2:4]
    assert len(registry.events()) == 14
    assert len(registry.events(limit=5)) == 5


def test_what_is_old_is_forgotten(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old events go, in small transactions, and with them the versions that nothing can make live any more."""
    monkeypatch.setattr(registry_module, "PRUNED", 4)
    for number in range(10):
        bring(registry, "acme", f"{number:064x}", State.LIVE)
    bring(registry, "gone", A, State.LIVE)
    registry.remove("gone", actor="ann")
    bring(registry, "kept", B, State.QUARANTINED)
    bring(registry, "one", C, State.RETIRED)
    assert registry.prune() == 0
    later = datetime.now(UTC) + timedelta(days=366)
    with registry.database.change() as session:  # a version of which something was heard since
        session.execute(update(EventRow).where(EventRow.version == f"{3:064x}").values(at=later))
    sizes: list[int] = []

    def committed(connection: Connection) -> None:
        sizes.append(connection.info.pop("rows", 0))

    def counted(connection: Connection, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            connection.info["rows"] = connection.info.get("rows", 0) + cursor.rowcount

    event.listen(registry.database._engine, "commit", committed)
    event.listen(registry.database._engine, "after_cursor_execute", counted)
    assert registry.prune(later) == sum(sizes)
    assert max(sizes) == 4
    assert {one.version for one in registry.events()} == {f"{3:064x}"}
    assert [one.version for one in registry.versions("acme")] == [f"{number:064x}" for number in (9, 8, 3)]
    assert registry.rollback("acme", actor="ann").live_version == f"{8:064x}"
    for name in ("kept", "one"):
        assert len(registry.versions(name)) == 1
    with registry.database.read() as session:
        assert session.get(VersionRow, ("gone", A)) is None
    bring(registry, "gone", A, State.LIVE)


def test_the_list_of_versions_is_bounded(registry: Registry) -> None:
    """The newest, and in any case the live one and the one before it."""
    names = [f"{number:064x}" for number in range(6)]
    for version in names[:2]:
        bring(registry, "acme", version, State.LIVE)
    for version in names[2:]:
        bring(registry, "acme", version, State.VALIDATED)
    shown = [record.version for record in registry.versions("acme", limit=2)]
    assert shown == [names[5], names[4], names[1], names[0]]


def test_the_live_version_stands_for_a_name_or_the_newest(registry: Registry) -> None:
    """Read with the name's record; a name that is removed, or cannot exist, is not found."""
    bring(registry, "acme", A, State.VALIDATED)
    bring(registry, "acme", B, State.VALIDATED)
    bring(registry, "other", C, State.LIVE)
    assert registry.shown("acme") == (registry.adapter("acme"), registry.version("acme", B))
    registry.activate("acme", A, actor="test")
    assert registry.shown("acme") == (registry.adapter("acme"), registry.version("acme", A))
    registry.remove("acme", actor="test")
    for name in ("acme", "nobody", "\x00"):
        with pytest.raises(AdapterNotFoundError):
            registry.shown(name)


def test_names_come_in_pages_with_their_versions(registry: Registry) -> None:
    """Sorted by name; removed names have neither, and versions of many names are those of each."""
    names = [f"name-{number}" for number in range(7)]
    for number, name in enumerate(names):
        bring(registry, name, f"{number:064x}", State.LIVE)
        bring(registry, name, f"{number + 10:064x}", State.LIVE)
    registry.remove("name-3", actor="ann")
    left = [name for name in names if name != "name-3"]
    assert [one.name for one in registry.adapters(limit=2)] == left[:2]
    assert [one.name for one in registry.adapters(after=left[1], limit=3)] == left[2:5]
    assert registry.adapters(after=left[-1]) == ()
    found = registry.versions_of([*names, "nobody"])
    assert found == {name: registry.versions(name) for name in left}
