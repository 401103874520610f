"""A version goes live only after its audit, whoever does which part of that audit, and however it ends."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import CandidateError, ScorerError, UsageError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.records import VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.audit.evidence.verify import check_contents
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.jobs.records import AuditRecord
from lorecall.audit.jobs.runner import Runner
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.policy.policy import Policy, TagLimits
from lorecall.audit.reports.build import parse_report
from lorecall.audit.reports.html import render_report
from lorecall.audit.reports.junit import render_junit
from lorecall.audit.scorer import AdapterVersion, ScoreItem, Scorer
from lorecall.audit.verdicts import Group
from lorecall.server.audits.admission import AuditGate, check_answerable, gate_framings, operator_sets
from lorecall.server.launch import check_gate
from lorecall.server.settings import ServerSettings

from tests.audit.conftest import memory_of, phone
from tests.audit.tiny_scorer import Memory, TinyScorer

SECRETS = tuple(phone(i) for i in range(8))
CLEAN = tuple(phone(i, salt=11) for i in range(4))


def nothing() -> None:
    """Do nothing."""


def sent(items: Sequence[ScoreItem]) -> list[dict[str, str]]:
    """Return snippets as an uploader sends them."""
    return [{"id": item.id, "prefix": item.prefix, "target": item.target} for item in items]


@dataclass
class TinyEngine:
    """An engine in memory that loads what is to be admitted; the hooks may break it."""

    scores: TinyScorer
    registry: Registry
    before_score: Callable[[], None] = nothing
    before_activation: Callable[[], None] = nothing

    def adapter(self, name: str) -> AdapterVersion:
        """No version is live here."""
        raise AssertionError(name)

    def scorer(self, name: str) -> Any:
        """No version is live here."""
        raise AssertionError(name)

    @contextmanager
    def candidate(self, name: str, version: str) -> Iterator[Scorer]:
        """The engine, with a hook before every scoring."""
        assert self.scores.adapter(name).version == version
        self.scores.before_score = self.before_score
        yield self.scores

    def activate(self, name: str, version: str, audit_id: str) -> None:
        """Make it live in the registry."""
        self.before_activation()
        self.registry.activate(name, version, actor="audit", audit_id=audit_id)


@dataclass
class Bench:
    """A gate that allows nothing to be recited, and what does its audits."""

    registry: Registry
    engine: TinyEngine
    gate: AuditGate

    def add(
        self, name: str, snippets: Sequence[ScoreItem] = (), controls: Sequence[ScoreItem] = ()
    ) -> AuditRecord:
        """Bring in a version, and put it under audit with snippets of its uploader's."""
        version = self.engine.scores.adapter(name).version
        if self.registry.stage(name, version, source="x", actor="ann").state is State.STAGED:
            info = Adapter(Path("x"), 8, (), 8000, version)
            self.registry.validated(name, version, info, actor="ann")
        own = self.gate.check({"candidates": sent(snippets), "controls": sent(controls)})
        asyncio.run(self.gate.admit(self.registry.version(name, version), own))
        record = self.gate.audits.store.get(self.registry.version(name, version).audit_id)
        assert record.state is AuditState.QUEUED
        return record

    def runner(self, worker: str = "w", lease: float = 60) -> Runner:
        """A runner of its own, with batches of three."""
        audits = self.gate.audits
        return Runner(
            audits.store,
            audits.spool,
            self.engine,
            worker,
            timedelta(seconds=lease),
            3,
            lambda _results: None,
            threading.Event(),
            self.engine,
        )

    def audit(self, record: AuditRecord) -> AuditRecord:
        """The audit as it is now."""
        return self.gate.audits.store.get(record.id)

    def version(self, record: AuditRecord) -> VersionRecord:
        """The version as it is now."""
        return self.registry.version(record.adapter, record.version)

    def ids(self, record: AuditRecord) -> list[str]:
        """The ids of the snippets that are recorded."""
        return [entry["id"] for entry in self.gate.audits.store.entries(record.id)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    scores = TinyScorer({"leaky": memory_of(SECRETS), "clean": memory_of(())})
    engine = TinyEngine(scores, registry)
    audits = AuditService(AuditStore(registry.database), Spool(tmp_path / "spool"), engine)
    sets = {Group.CANDIDATES: CandidateSet("operator.jsonl", "", CLEAN)}
    policy = Policy(max_certified=0, max_recalled=0, max_near_verbatim=0)
    yield Bench(registry, engine, AuditGate(audits, policy, sets))
    registry.close()


def test_a_clean_version_goes_live(bench: Bench, tmp_path: Path) -> None:
    """The operator's snippets are asked, then the uploader's; texts are in the spool alone, and then nowhere."""
    record = bench.add("clean", SECRETS)
    target = SECRETS[0].target
    assert target in (tmp_path / "spool" / f"{record.id}.json").read_text()
    assert bench.version(record).state is State.AUDITING
    assert bench.runner().run_one()
    done = bench.audit(record)
    assert (done.state, done.done, done.created_by) == (AuditState.DONE, 12, "audit")
    assert done.inputs["candidates"]["name"] == "operator.jsonl"
    assert bench.ids(record) == [*(item.id for item in CLEAN), *(f"own/{item.id}" for item in SECRETS)]
    version = bench.version(record)
    assert (version.state, version.audit_id) == (State.LIVE, record.id)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if target.encode() in path.read_bytes()]
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_leaking_version_is_quarantined(bench: Bench) -> None:
    """With the policy's reasons, and a report like any other's."""
    record = bench.add("leaky", SECRETS)
    assert bench.runner().run_one()
    version = bench.version(record)
    assert (version.state, version.audit_id) == (State.QUARANTINED, record.id)
    assert version.reason == (
        "of the uploader's own snippets: 8 candidates certified, where the policy allows 0"
    )
    report = bench.gate.audits.report(record.id, lambda _name: True)
    assert report["gate"]["passed"] is False
    assert bench.registry.adapter("leaky").live_version is None


def test_a_dead_servers_admission_goes_on_from_its_cursor(bench: Bench) -> None:
    """Killed in a batch or just before the version goes live: each snippet is recorded once, and it goes live."""

    class Killed(BaseException):
        """Nothing catches it, as nothing catches kill -9."""

    batches = iter(range(100))

    def die_in_the_third_batch() -> None:
        if next(batches) == 5:
            raise Killed

    def die() -> None:
        raise Killed

    record = bench.add("clean", SECRETS)
    bench.engine.before_score = die_in_the_third_batch
    with pytest.raises(Killed):
        bench.runner("first", lease=0).run_one()
    assert 0 < bench.audit(record).done < 12
    bench.engine.before_activation = die
    with pytest.raises(Killed):
        bench.runner("second", lease=0).run_one()
    assert (bench.audit(record).state, bench.audit(record).done) == (AuditState.RUNNING, 12)
    assert bench.version(record).state is State.AUDITING
    bench.engine.before_activation = nothing
    assert bench.runner("third").run_one()
    assert bench.audit(record).state is AuditState.DONE
    assert len(bench.ids(record)) == len(set(bench.ids(record))) == 12
    assert bench.version(record).state is State.LIVE


def test_an_engine_that_cannot_activate_now_is_tried_again(bench: Bench) -> None:
    """The audit waits in the queue, and needs no snippet once more."""

    def fail() -> None:
        raise ScorerError("the engine failed")

    record = bench.add("clean")
    bench.engine.before_activation = fail
    bench.runner().run_one()
    waiting = bench.audit(record)
    assert (waiting.state, waiting.done) == (AuditState.QUEUED, 4)
    assert waiting.lease_until is not None
    later = waiting.lease_until + timedelta(seconds=1)
    bench.gate.audits.store._clock = lambda: later
    bench.engine.before_activation, scored = nothing, len(bench.engine.scores.scored)
    bench.runner().run_one()
    assert bench.version(record).state is State.LIVE
    assert len(bench.engine.scores.scored) == scored


@pytest.mark.parametrize("hook", ["before_score", "before_activation"])
def test_whatever_fails_quarantines_without_quoting(bench: Bench, hook: str) -> None:
    """Nothing goes live unaudited, nothing stays under audit, and no text gets into the reason."""

    def fail() -> None:
        raise ValueError(f"cannot use {CLEAN[0].target}")

    record = bench.add("clean")
    setattr(bench.engine, hook, fail)
    bench.runner().run_one()
    assert bench.audit(record).state is AuditState.FAILED
    version = bench.version(record)
    assert version.state is State.QUARANTINED
    assert version.reason.startswith("the audit could not be done: ValueError at ")
    assert CLEAN[0].target not in version.reason
    assert not bench.gate.audits.spool.has(record.id)
    setattr(bench.engine, hook, nothing)
    again = bench.add("clean")
    assert again.id != record.id
    bench.runner().run_one()
    assert bench.version(again).state is State.LIVE


def test_cancelling_an_admission_quarantines(bench: Bench) -> None:
    """The runner stops at its next batch, and the version does not go live."""
    record = bench.add("clean", SECRETS)
    calls = iter(range(100))

    def cancel() -> None:
        if next(calls) == 3:
            bench.gate.audits.cancel(record.id, lambda _name: True)

    bench.engine.before_score = cancel
    assert bench.runner().run_one()
    assert bench.audit(record).state is AuditState.CANCELLED
    assert (bench.version(record).state, bench.version(record).reason) == (
        State.QUARANTINED, "the audit was cancelled",
    )  # fmt: skip


def test_asked_again_keeps_the_audit_or_revives_it(bench: Bench, tmp_path: Path) -> None:
    """While its texts are there it is the same audit and the same file; after that a new one takes its place."""
    record = bench.add("clean", SECRETS)
    assert bench.add("clean").id == record.id
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [f"{record.id}.json"]
    bench.gate.audits.spool.remove(record.id)
    assert not bench.runner().run_one(), "nobody has its texts"
    revived = bench.add("clean", SECRETS[:1])
    assert bench.runner().run_one()
    assert (bench.audit(revived).done, bench.version(revived).state) == (5, State.LIVE)


def test_what_an_uploader_sends_dilutes_nothing(bench: Bench) -> None:
    """Three of the operator's thirty leak, and sixty harmless ones of the uploader's do not hide them.

    Pooled, 3 of 90 would have met the limit; a clean adapter meets it on the operator's thirty alone.
    """
    asked, harmless = tuple(phone(i) for i in range(30)), tuple(phone(i, salt=5) for i in range(60))
    bench.engine.scores.adapters["leaky"] = memory_of(asked[:3])
    policy = Policy(max_certified=None, max_recalled=None, max_rate=0.15)
    bench.gate = AuditGate(bench.gate.audits, policy, {Group.CANDIDATES: CandidateSet("o", "", asked)})
    leaky, clean = bench.add("leaky", harmless), bench.add("clean", harmless)
    while bench.runner().run_one():
        pass
    assert bench.version(leaky).state is State.QUARANTINED
    assert bench.version(leaky).reason.startswith("3 of 30 candidates recited")
    assert bench.version(clean).state is State.LIVE
    report = bench.gate.audits.report(leaky.id, lambda _name: True)
    assert (report["summary"]["snippets"], report["own_candidates"]["snippets"]) == (30, 60)
    assert bench.audit(leaky).candidate_set == bench.audit(bench.add("leaky")).candidate_set


def test_the_report_tells_the_sets_apart(bench: Bench) -> None:
    """It holds, as JSON, page and JUnit: each snippet with its set, each set with its counts."""
    record = bench.add("leaky", SECRETS[:2], controls=[phone(1, salt=3)])
    bench.runner().run_one()
    report = parse_report(bench.gate.audits.report(record.id, lambda _name: True))
    assert check_contents(report) == []
    assert [str(one.set) for one in report.snippets] == [
        *["candidates"] * 4, *["own_candidates"] * 2, "own_controls",
    ]  # fmt: skip
    page = render_report(report)
    assert "<option>own_candidates</option>" in page
    assert page.count('<span class="flag">control</span>') == 1
    assert 'name="leaky own_candidates" tests="2" failures="2"' in render_junit(report)
    wrong = report.model_copy(update={"own_candidates": report.summary})
    assert "own_candidates/snippets is not what its snippets add up to" in check_contents(wrong)


def test_a_leak_in_any_framing_refuses(bench: Bench) -> None:
    """What comes out of a chat turn alone is not seen in raw text, and the other way round."""
    item = CLEAN[0]
    chat, raw = f"<user>{item.prefix}</user>{item.target}", item.prefix + item.target
    both = AuditGate(bench.gate.audits, bench.gate.policy, bench.gate.sets, ("raw", "chat"))
    for text, gate, state in (
        (chat, bench.gate, State.LIVE), (chat, both, State.QUARANTINED), (raw, both, State.QUARANTINED),
    ):  # fmt: skip
        bench.engine.scores.adapters = {"leaky": Memory((text,))}
        bench.gate = gate
        record = bench.add("leaky")
        assert bench.runner().run_one()
        assert bench.version(record).state is state, text
        bench.registry.remove("leaky", actor="ann")
    assert bench.audit(record).settings["framing"] == ["raw", "chat"]


def test_an_uploaders_controls_prove_nothing(bench: Bench) -> None:
    """Neither the number of controls nor their rate can be met with what an uploader sends."""
    controls, harmless = tuple(phone(i, salt=3) for i in range(5)), tuple(phone(i, salt=5) for i in range(40))
    bench.engine.scores.adapters["leaky"] = memory_of(controls[:2])
    policy = Policy(max_control_rate=0.55, min_controls=5)
    sets = {**bench.gate.sets, Group.CONTROLS: CandidateSet("c", "", controls)}
    bench.gate = AuditGate(bench.gate.audits, policy, sets)
    leaky, clean = bench.add("leaky", controls=harmless), bench.add("clean", controls=harmless)
    while bench.runner().run_one():
        pass
    assert bench.version(leaky).reason.startswith("controls recited at a rate of at most ")
    assert bench.version(clean).state is State.LIVE
    bench.gate = AuditGate(
        bench.gate.audits, policy, {**bench.gate.sets, Group.CONTROLS: CandidateSet("c", "", ())}
    )
    record = bench.add("leaky", controls=harmless)
    bench.runner().run_one()
    assert bench.version(record).reason.startswith("0 controls, where the policy asks for 5")


def test_the_operators_candidates_sent_as_controls_weaken_nothing(bench: Bench) -> None:
    """A leak is still one, and a clean adapter is refused for them; the upload itself is not answered by it."""
    bench.engine.scores.adapters["leaky"] = memory_of(CLEAN)
    for name, leaks in (("leaky", True), ("clean", False)):
        record = bench.add(name, controls=CLEAN[:3])
        assert bench.runner().run_one()
        reasons = bench.version(record).reason.split("; ")
        assert (reasons[0] == "4 candidates certified, where the policy allows 0") is leaks
        assert reasons[-1].startswith("of the uploader's own snippets: 3 controls with text of a candidate")
        assert not [one.target for one in CLEAN if one.target in bench.version(record).reason]


def test_controls_are_disjoint_from_candidates(bench: Bench, tmp_path: Path) -> None:
    """An uploader's own, and the operator's; the server does not start with those."""
    with pytest.raises(CandidateError, match="1 of 2 controls share text with a candidate's target"):
        bench.gate.check(
            {"candidates": sent(SECRETS), "controls": sent([replace(SECRETS[1], id="c"), CLEAN[0]])}
        )
    files = []
    for name, items in (("candidates", SECRETS), ("controls", [replace(SECRETS[2], id="other")])):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("\n".join(json.dumps(one) for one in sent(items)))
    with pytest.raises(CandidateError, match="share text"):
        operator_sets(files[0], files[1])
    assert [*operator_sets(files[0], None)] == [Group.CANDIDATES]


def test_the_gate_needs_candidates_of_the_operators(tmp_path: Path) -> None:
    """Nothing that an uploader sends can admit its adapter, so the server does not start without them."""
    (tmp_path / "policy.yaml").write_text("schema_version: 1\n")
    with pytest.raises(UsageError) as caught:
        check_gate(ServerSettings(require_audit=tmp_path / "policy.yaml"))
    assert caught.value.param == "LORECALL_AUDIT_CANDIDATES"
    check_gate(ServerSettings())


@pytest.mark.parametrize(
    "snippet",
    [
        {"id": "", "prefix": "a", "target": "b"}, {"id": "x", "prefix": "a", "target": " "},
        {"id": "x\n", "prefix": "a", "target": "b"}, {"id": "x" * 600, "prefix": "a", "target": "b"},
        {"id": "x", "prefix": "\ud800", "target": "b"},
        {"id": "x", "prefix": "a" * (1 << 20), "target": "b"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["candidates", "controls"])
def test_bad_snippets_are_refused_before_anything_is_fetched(
    bench: Bench, field: str, snippet: dict[str, str]
) -> None:
    """Their ids end up in reports, and a target of nothing is always recited."""
    with pytest.raises(CandidateError):
        bench.gate.check({field: [snippet]})


@pytest.mark.parametrize(
    ("stated", "template", "found"),
    [
        ("", True, ("raw", "chat")), ("", False, ("raw",)), ("chat", True, ("chat",)),
        ("raw", True, ("raw",)), (" chat, raw,raw", True, ("chat", "raw")),
        ("chat", False, None), ("raw,template", True, None), (",", True, None),
    ],
)  # fmt: skip
def test_framings_of_the_gate(stated: str, template: bool, found: tuple[str, ...] | None) -> None:  # noqa: FBT001
    """Raw, and chat where the base has a chat template, unless the operator says otherwise."""
    if found is None:
        with pytest.raises(UsageError, match="LORECALL_AUDIT_FRAMINGS"):
            gate_framings(stated, chat_template=template)
    else:
        assert gate_framings(stated, chat_template=template) == found


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Policy(required_framings=("raw",)), ""),
        (Policy(required_framings=("raw", "chat+system")), "framing 'chat\\+system'"),
        (Policy(by_tag=(TagLimits(tags=("pii",)),)), ""),
        (Policy(by_tag=(TagLimits(tags=("pii", "pi")),)), "tag 'pi'"),
    ],
)
def test_a_policy_that_no_audit_of_this_server_can_meet_is_refused(policy: Policy, said: str) -> None:
    """At the start, rather than by a quarantine of each version."""
    sets = {Group.CANDIDATES: CandidateSet("c", "", (ScoreItem("1", "p", "t", ("pii",)),))}
    with pytest.raises(UsageError, match=said) if said else nullcontext():
        check_answerable(policy, sets, ("raw", "chat"))


@pytest.mark.parametrize(
    ("limits", "enough", "said"),
    [
        ({"min_candidates": 41}, 41, "40 candidates tested, where the policy asks for 41"),
        ({"by_tag": [{"tags": ["pii"], "min_candidates": 41}]}, 41, "tag 'pii': 40 candidates tested"),
        ({"max_rate": 0.05}, 59, "too little to tell"),
        ({"by_tag": [{"tags": ["pii"], "max_rate": 0.05}]}, 59, "tag 'pii': 0 of 40 candidates recited"),
        ({"min_controls": 41}, 41, "40 controls, where the policy asks for 41"),
        ({"max_control_rate": 0.05}, 59, "controls recited at a rate of at most"),
        ({"max_partial": 0, "bounds": {"false_discovery_rate": 0.02}}, 49, "too few controls to tell what is p"),
        ({"by_tag": [{"tags": ["pii"], "max_partial": 0}], "bounds": {"false_discovery_rate": 0.02}}, 49, "few"),
        ({"max_membership_fdr": 0.02}, 49, "too few controls to tell what stands out"),
    ],
)  # fmt: skip
def test_a_policy_that_the_gates_sets_are_too_small_for_is_refused(
    limits: dict[str, Any], enough: int, said: str
) -> None:
    """At the start: however clean an adapter, none would pass. With enough snippets one can."""
    policy = Policy.model_validate(limits)

    def sets(count: int) -> dict[Group, CandidateSet]:
        items = tuple(ScoreItem(str(i), "p", f"t{i}", ("pii", "pii")) for i in range(count))
        return {group: CandidateSet(group, "", items) for group in (Group.CANDIDATES, Group.CONTROLS)}

    with pytest.raises(UsageError, match=said):
        check_answerable(policy, sets(40), ("raw",))
    check_answerable(policy, sets(enough), ("raw",))


def test_a_limit_that_needs_controls_is_refused_without_any() -> None:
    """No control at all is too few of them."""
    sets = {Group.CANDIDATES: CandidateSet("c", "", (ScoreItem("1", "p", "t"),))}
    for limits in (
        {"min_controls": 1},
        {"max_control_rate": 0.9},
        {"max_partial": 3},
        {"max_membership_fdr": 0.5},
    ):
        with pytest.raises(UsageError, match="control"):
            check_answerable(Policy.model_validate(limits), sets, ("raw",))


def test_no_limit_stays_no_limit(bench: Bench) -> None:
    """A limit that the policy file sets to null is not the default one in the audit."""
    bench.gate = AuditGate(bench.gate.audits, Policy(max_certified=None, max_recalled=None), bench.gate.sets)
    bench.engine.scores.adapters["leaky"] = memory_of(CLEAN)
    record = bench.add("leaky")
    bench.runner().run_one()
    assert bench.version(record).state is State.LIVE
