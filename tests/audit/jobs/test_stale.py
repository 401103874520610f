"""A verdict holds for an engine, a base, a policy and a version; and what is read of the database for that."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs import last_audits
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.records import AuditRecord, LastAudit, NewAudit, new_id
from lorecall.audit.jobs.stale import Cause, Staleness, Terms, reasons
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.policy.policy import Policy
from lorecall.audit.scorer import EngineInfo, Sampling
from sqlalchemy import event

from tests.audit.jobs.conftest import Clock

V1, V2 = "1" * 64, "2" * 64
ENGINE = EngineInfo(
    "vllm 0.32.0 (cpu)",
    "smollm2",
    "b" * 64,
    "int8-w8a8",
    0.01,
    Sampling(0.6),
    ("x",),
    device="cpu",
    dtype="bfloat16",
    kv_cache_dtype="bfloat16",
)
LEASE = timedelta(seconds=60)


def recorded(
    engine: EngineInfo = ENGINE, policy: dict[str, Any] | None = None, version: str = V1
) -> LastAudit:
    """An audit as the database gives it back: its facts went through JSON."""
    run = json.loads(json.dumps({"engine": asdict(engine), "epsilon": {"value": 0.01}}))
    return LastAudit("a1", version, {"seed": 0, "policy": policy or {}}, run)


@pytest.mark.parametrize(
    ("now", "cause", "said"),
    [
        ({"base_digest": "c" * 64}, Cause.BASE, "base changed: from bbbbbbbbbbbb to cccccccccccc"),
        (
            {"engine": "vllm 0.33.0 (cpu)"},
            Cause.ENGINE,
            "engine changed: from vllm 0.32.0 (cpu) to vllm 0.33.0 (cpu)",
        ),
        (
            {"scheme": "int4-w4a16"},
            Cause.QUANTIZATION,
            "quantization changed: from int8-w8a8 to int4-w4a16",
        ),
        (
            {"sampling": Sampling(1.0, 1.0, 2), "penalties": ()},
            Cause.SAMPLING,
            "sampling changed: from temperature 0.6, top-p 1, top-k off, x to temperature 1, top-p 1, top-k 2",
        ),
        (
            {"device": "cuda NVIDIA H100 (sm_90)"},
            Cause.DEVICE,
            "device changed: from cpu to cuda NVIDIA H100 (sm_90)",
        ),
        ({"dtype": "float16"}, Cause.DTYPE, "dtype changed: from bfloat16 to float16"),
        ({"kv_cache_dtype": "fp8"}, Cause.KV_CACHE, "kv_cache changed: from bfloat16 to fp8"),
    ],
)
def test_each_fact_of_the_engine_makes_a_verdict_stale(now: dict[str, Any], cause: Cause, said: str) -> None:
    """With a sentence that names what was and what is; nothing else is said."""
    assert reasons(recorded(), V1, Terms.of(replace(ENGINE, **now), None)) == {cause: said}


def test_what_does_not_matter_makes_no_verdict_stale() -> None:
    """The engine's measured spread, and the served name of a base whose digest is known."""
    now = replace(ENGINE, epsilon=0.5, base="another-name")
    assert reasons(recorded(), V1, Terms.of(now, None)) == {}
    assert Terms.of(now, None).digest == Terms.of(ENGINE, None).digest


def test_what_an_older_release_did_not_record_makes_no_verdict_stale() -> None:
    """It said nothing of the device and the dtypes; nor may an older server beside an audit service."""
    older = replace(ENGINE, device="", dtype="", kv_cache_dtype="")
    assert reasons(recorded(older), V1, Terms.of(ENGINE, None)) == {}
    assert reasons(recorded(), V1, Terms.of(older, None)) == {}


def test_a_base_without_a_digest_is_known_by_its_name() -> None:
    """It was not prepared here; nothing better is known of it."""
    then = replace(ENGINE, base_digest="")
    assert reasons(recorded(then), V1, Terms.of(then, None)) == {}
    found = reasons(recorded(then), V1, Terms.of(replace(then, base="other"), None))
    assert found == {Cause.BASE: "base changed: from smollm2 to other"}


def test_a_policy_is_what_it_says_and_not_how_it_is_written() -> None:
    """A default that is named is the default; where no policy admits, none is compared."""
    now = Terms.of(ENGINE, Policy(max_partial=3))
    assert reasons(recorded(policy={"max_partial": 3, "max_certified": 0}), V1, now) == {}
    assert reasons(recorded(policy={"max_partial": 4}), V1, Terms.of(ENGINE, None)) == {}
    (said,) = reasons(recorded(policy={"max_partial": 4}), V1, now).values()
    assert said.startswith("policy changed: from ")
    assert now.digest != Terms.of(ENGINE, Policy()).digest


def test_a_verdict_on_another_version_is_stale() -> None:
    """As are several changes at once, each with its sentence."""
    found = reasons(recorded(), V2, Terms.of(replace(ENGINE, engine="vllm 0.33.0 (cpu)"), None))
    assert list(found) == [Cause.VERSION, Cause.ENGINE]
    assert found[Cause.VERSION] == "version changed: from 111111111111 to 222222222222"


@pytest.mark.parametrize(
    "audit",
    [
        replace(recorded(), run={"engine": {"engine": ["new"]}}),
        replace(recorded(), run={}),
        replace(recorded(), settings={"policy": {"max_of_a_newer_release": 1}}),
    ],
)
def test_what_cannot_be_read_does_not_hold(audit: LastAudit) -> None:
    """An audit of another release is stale, and takes no list down."""
    found = reasons(audit, V1, Terms.of(ENGINE, Policy()))
    assert found
    assert all("what another release wrote" in said for said in found.values())


@pytest.fixture
def store(registry: Registry, clock: Clock) -> AuditStore:
    """An empty store, once on each kind of database."""
    return AuditStore(registry.database, clock)


@pytest.fixture
def audits(registry: Registry) -> LastAudits:
    return LastAudits(registry.database)


def new(adapter: str = "acme", version: str = V1, renews: str = "") -> NewAudit:
    inputs = {"candidates": {"name": "c.jsonl", "digest": "d" * 64, "snippets": 1}}
    settings = {"seed": 0, "policy": {}}
    return NewAudit(new_id(), adapter, version, 8, 8000, "s" * 64, inputs, settings, 1, "me", renews=renews)


def done(store: AuditStore, clock: Clock, one: NewAudit, engine: EngineInfo = ENGINE) -> str:
    """Queue an audit and end it, an hour after the one before."""
    record = store.add_renewal(one) if one.renews else store.add(one)
    assert record is not None
    taken = store.claim("w", LEASE, lambda audit_id: audit_id == record.id)
    assert taken is not None
    store.begin(taken.id, "w", {"engine": asdict(engine)})
    clock.now += timedelta(hours=1)
    store.finish(taken.id, "w", {"summary": {}, "gate": {"passed": True}})
    return record.id


def test_the_newest_audit_of_the_live_version_counts(
    store: AuditStore, clock: Clock, audits: LastAudits
) -> None:
    """Of another version only where the live one has none; what waits or failed does not count."""
    first = done(store, clock, new())
    second = done(store, clock, new())
    other = done(store, clock, new(version=V2))
    store.add(new())
    assert {name: one.id for name, one in audits.of({"acme": V1}).items()} == {"acme": second}
    assert audits.of({"acme": V2})["acme"].id == other
    assert audits.of({"acme": "3" * 64})["acme"].id == other, "the newest of any"
    assert audits.of({"globex": V1}) == {}
    store.remove(second, "ann")
    assert audits.of({"acme": V1})["acme"].id == first


def test_an_audit_that_somebody_asked_for_hides_none_of_the_servers_own(
    store: AuditStore, clock: Clock, audits: LastAudits
) -> None:
    """Its snippets and its policy are somebody's own: they cannot stand for the operator's."""
    own = done(store, clock, new(renews="t1"))
    done(store, clock, new())
    assert audits.of({"acme": V1})["acme"].id == own
    newer = done(store, clock, new(renews="t2"))
    assert audits.of({"acme": V1})["acme"].id == newer


def test_lists_of_any_length_take_few_statements_and_read_no_result(
    store: AuditStore, clock: Clock, audits: LastAudits, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two for each page of names; a result is large."""
    monkeypatch.setattr(last_audits, "PAGE", 3)
    names = [f"a{number}" for number in range(7)]
    for name in names:
        done(store, clock, new(name))
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(registry.database._engine, "before_cursor_execute", note)
    found = audits.of(dict.fromkeys([*names, "never"], V1))
    event.remove(registry.database._engine, "before_cursor_execute", note)
    assert sorted(found) == names
    asked = [one for one in statements if one.startswith("SELECT")]
    assert len(asked) == 6
    assert not [one for one in asked if "result" in one]


def test_staleness_is_shown_by_name(store: AuditStore, clock: Clock, audits: LastAudits) -> None:
    """None where nothing is live or nothing was audited, an empty list where the verdict holds."""
    for name in ("acme", "globex"):
        done(store, clock, new(name))
    done(store, clock, new("old"), replace(ENGINE, engine="vllm 0.31.0 (cpu)"))
    shown = Staleness(audits, lambda: Terms.of(ENGINE, None)).shown(
        {"acme": V1, "globex": None, "old": V1, "never": V1}
    )
    assert shown == {
        "acme": [],
        "globex": None,
        "old": ["engine changed: from vllm 0.31.0 (cpu) to vllm 0.32.0 (cpu)"],
        "never": None,
    }


def test_a_version_is_renewed_once_for_the_same_terms(
    store: AuditStore, clock: Clock, audits: LastAudits, registry_url: str
) -> None:
    """However that ended, and whichever of several servers orders it; for other terms again."""
    assert store.add_renewal(new(renews="t1")) is not None
    assert store.add_renewal(new(renews="t1")) is None
    assert len(audits.open_renewals()) == 1
    assert audits.renewed("t1") == {("acme", V1)}
    record = store.claim("w", LEASE, lambda _id: True)
    assert record is not None
    store.finish(record.id, "w", {}, error="it could not be done")
    assert store.add_renewal(new(renews="t1")) is None, "it failed, and would fail again"
    assert (audits.open_renewals(), audits.renewed("t2")) == ((), frozenset())

    def order(_: int) -> AuditRecord | None:
        mine = Registry(registry_url)
        made = AuditStore(mine.database, clock).add_renewal(new(renews="t2"))
        mine.close()
        return made

    with ThreadPoolExecutor(3) as pool:
        made = [one for one in pool.map(order, range(3)) if one is not None]
    assert len(made) == 1


def test_renewals_are_taken_last(store: AuditStore, clock: Clock) -> None:
    """After what somebody asked for, though it came later."""
    renewal = store.add_renewal(new(renews="t1"))
    clock.now += timedelta(seconds=1)
    asked = store.add(new("globex"))
    taken = [store.claim("w", LEASE, lambda _id: True) for _ in range(2)]
    assert [one.id if one else "" for one in taken] == [asked.id, renewal.id if renewal else ""]
    assert store.get(asked.id).state is AuditState.RUNNING
