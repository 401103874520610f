"""Audits that were asked for are done as `run_audit` would, in pieces, whoever does which piece."""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from lorecall.adapters.core.errors import ScorerError, UsageError
from lorecall.adapters.registry.audit_tables import AuditRow, AuditSnippetRow, AuditState
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.coarse import coarse_p
from lorecall.audit.evidence.verify import check_contents
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.jobs.order import make_order
from lorecall.audit.jobs.records import AuditRecord
from lorecall.audit.jobs.runner import Runner, pieces
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.judging.decoding import CHECKED_SHARE
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import MaxExtractable, Policy
from lorecall.audit.records import SnippetResult
from lorecall.audit.reports.build import build_report, parse_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.signing import check_seal
from lorecall.audit.reports.snippets import ScoredSnippet
from lorecall.audit.runs.plan import Budget, Costs, cost_of_others
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import AdapterVersion, Decoded, Sampling, ScoreItem, Scorer
from lorecall.audit.verdicts import Group, Verdict
from sqlalchemy import select, update

from tests.audit.conftest import as_set, phone
from tests.audit.judging.test_extractable import ITEM, Torn
from tests.audit.tiny_scorer import Memory, TinyScorer

MIGRATIONS = Path(__file__).parents[3] / "adapters" / "registry" / "migrations"
Hook = Callable[[], None]


@dataclass
class TinyEngines:
    """The engine in memory as the service sees it; `before_score` may break it."""

    engine: TinyScorer
    before_score: Hook = lambda: None

    def adapter(self, name: str) -> AdapterVersion:
        """The version that is served."""
        return self.engine.adapter(name)

    @contextmanager
    def scorer(self, _name: str) -> Iterator[Scorer]:
        """The engine, with the hook before every scoring."""
        self.engine.before_score = self.before_score
        try:
            yield self.engine
        finally:
            self.engine.before_score = lambda: None


@dataclass
class Bench:
    """A service, its texts, and runners on it."""

    service: AuditService
    engines: TinyEngines
    seen: list[SnippetResult]

    def submit(self, adapter: str, sets: dict[Group, CandidateSet], **fields: Any) -> AuditRecord:
        """Ask for an audit."""
        given = {
            str(group): [
                {"id": i.id, "prefix": i.prefix, "target": i.target, "tags": list(i.tags)} for i in one.items
            ]
            for group, one in sets.items()
        }
        return self.service.submit(make_order({"adapter": adapter, **given, **fields}, {}), _all, "me")

    def runner(self, worker: str = "w", batch: int = 5) -> Runner:
        """A runner of its own."""
        return Runner(
            self.service.store,
            self.service.spool,
            self.engines,
            worker,
            timedelta(seconds=60),
            batch,
            self.seen.extend,
            threading.Event(),
        )

    def get(self, record: AuditRecord) -> AuditRecord:
        """The audit as it stands now."""
        return self.service.store.get(record.id)


def _all(_adapter: str) -> bool:
    return True


@pytest.fixture
def bench(tmp_path: Path, engine: TinyScorer) -> Iterator[Bench]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    engines = TinyEngines(engine)
    yield Bench(AuditService(AuditStore(registry.database), Spool(tmp_path / "spool"), engines), engines, [])
    registry.close()


def test_the_report_is_the_one_of_a_single_run(
    bench: Bench, engine: TinyScorer, sets: dict[Group, CandidateSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of five, and in one go on the command line: the same report but for time and names."""
    tagged = tuple(
        replace(i, tags=("key", "pii")[: n % 3]) for n, i in enumerate(sets[Group.CANDIDATES].items)
    )
    sets = sets | {Group.CANDIDATES: as_set(tagged)}
    monkeypatch.setenv("LORECALL_REPORT_SALT", "pepper")
    record = bench.submit("leaky", sets, framing=["raw", "chat"])
    assert bench.runner().run_one()
    report = bench.service.report(record.id, _all)
    assert check_seal(parse_report(report)) == []
    settings = AuditSettings(views=make_order_views(["raw", "chat"]))
    result = run_audit(engine, "leaky", sets, settings)
    whole = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"pepper")).values()
    for name in ("started", "seconds", "seal", "inputs"):
        del report[name], whole[name]
    assert report == whole
    assert report["summary"]["verdicts"]["certified"] == 12
    assert report["by_tag"]["key"]["verdicts"]["certified"] == 8
    assert len(bench.seen) == 32


def test_what_is_not_decoded_is_that_of_a_single_run(
    bench: Bench, engine: TinyScorer, sets: dict[Group, CandidateSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that decodes what is likely leaves out the same candidates, in pieces and after another runner."""
    monkeypatch.setenv("LORECALL_REPORT_SALT", "pepper")
    sets = sets | {Group.CANDIDATES: as_set(tuple(phone(i, salt=5) for i in range(40)))}
    record = bench.submit("other", sets, decode="likely", seed=3)
    first = bench.runner("first", batch=7)
    bench.engines.before_score = first.stop.set
    assert first.run_one()
    bench.engines.before_score = lambda: None
    assert 0 < bench.get(record).done < bench.get(record).total
    assert bench.runner("second").run_one()
    report = bench.service.report(record.id, _all)
    assert check_contents(parse_report(report)) == []
    result = run_audit(engine, "other", sets, AuditSettings(checked_share=CHECKED_SHARE, seed=3))
    whole = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"pepper")).values()
    for name in ("started", "seconds", "seal", "inputs"):
        del report[name], whole[name]
    assert report == whole
    unsure = report["summary"]["undecoded"]
    assert unsure["left_out"] > 0
    assert unsure["left_out"] == sum("not decoded" in one["flags"] for one in report["snippets"])
    assert report["settings"]["checked_share"] == CHECKED_SHARE


@pytest.mark.parametrize(("decode", "share"), [("all", 1.0), ("likely", CHECKED_SHARE)])
def test_what_a_budget_buys_is_that_of_a_single_run(
    bench: Bench,
    engine: TinyScorer,
    sets: dict[Group, CandidateSet],
    monkeypatch: pytest.MonkeyPatch,
    decode: str,
    share: float,
) -> None:
    """The same candidates, ranked and drawn, in pieces and after another runner; progress counts them."""
    monkeypatch.setenv("LORECALL_REPORT_SALT", "pepper")
    tags = ("card", "key")
    items = tuple(replace(phone(i, salt=5 if i else 11), tags=(tags[i % 2],)) for i in range(60))
    sets = sets | {Group.CANDIDATES: as_set(items)}
    spent = 1000 + round(cost_of_others(sets, Costs()))
    record = bench.submit("other", sets, budget_tokens=spent, seed=3, decode=decode)
    assert 20 < record.total < 60
    first = bench.runner("first", batch=7)
    bench.engines.before_score = first.stop.set
    assert first.run_one()
    bench.engines.before_score = lambda: None
    assert 0 < bench.get(record).done < record.total
    assert bench.runner("second").run_one()
    report = bench.service.report(record.id, _all)
    assert check_contents(parse_report(report)) == []
    assert len(report["snippets"]) == record.total
    budget = Budget(float(spent), Costs())
    result = run_audit(engine, "other", sets, AuditSettings(budget=budget, seed=3, checked_share=share))
    whole = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"pepper")).values()
    for name in ("started", "seconds", "seal", "inputs"):
        del report[name], whole[name]
    assert report == whole
    assert [one["ranked_hits"] for one in report["strata"]] == [1, 0]
    assert any("left_out" in one for one in report["strata"]) == (decode == "likely")


def test_a_policy_that_asks_for_all_decodes_refuses_an_order_of_some(
    bench: Bench, sets: dict[Group, CandidateSet]
) -> None:
    """At the door, before anything is stored."""
    with pytest.raises(UsageError, match="every candidate is decoded"):
        bench.submit("other", sets, decode="likely", policy={"decode": "all"})


def test_what_sampling_gives_is_judged_as_in_a_single_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of the order says how often one may ask; the first batch fixes the scheme for all."""
    monkeypatch.setenv("LORECALL_REPORT_SALT", "pepper")
    bench.engines.engine = Torn(0.2)
    sets = {Group.CANDIDATES: as_set((ITEM, *(phone(n) for n in range(2, 9))))}
    record = bench.submit("a", sets, policy={"max_extractable": {"samples": 20, "temperature": 0.9}})
    assert bench.runner().run_one()
    report = parse_report(bench.service.report(record.id, _all))
    result = run_audit(bench.engines.engine, "a", sets, AuditSettings(extraction=SamplingWish(20, 0.5, 0.9)))
    policy = Policy(max_extractable=MaxExtractable(samples=20, temperature=0.9))
    whole = build_report(result, judge_result(result, policy), policy, Redactor(b"pepper"))
    assert (report.snippets, report.gate, report.settings) == (whole.snippets, whole.gate, whole.settings)
    assert report.summary.verdicts[Verdict.EXTRACTABLE] == 1
    assert bench.get(record).run["extraction"]["sampling"] == {"temperature": 0.9, "top_p": 1.0, "top_k": 0}


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


class DiesDrawing(Torn):
    """Dies in the first and each third request for answers after it."""

    requests = 0

    def draw(self, *args: Any) -> list[Decoded]:
        """Answers, or death."""
        self.requests += 1
        if self.requests % 3 == 1:
            raise Killed
        return super().draw(*args)


def test_drawn_answers_are_those_of_a_single_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each snippet in its place, in batches, by runners that die while they draw: the same report."""
    monkeypatch.setenv("LORECALL_REPORT_SALT", "pepper")
    bench.engines.engine = DiesDrawing(0.2)
    items = (*(phone(n) for n in range(2, 6)), ITEM, replace(ITEM, id="again"))
    sets = {
        Group.CANDIDATES: as_set(items),
        Group.CONTROLS: as_set(tuple(phone(n, salt=3) for n in range(4))),
    }
    record = bench.submit("a", sets, sample=25, seed=7)
    lives = 0
    while bench.get(record).state in (AuditState.QUEUED, AuditState.RUNNING):
        lives += 1
        with contextlib.suppress(Killed):
            replace(bench.runner(f"w{lives}", batch=3), lease=timedelta(seconds=0.3)).run_one()
    assert lives > 1
    report = parse_report(bench.service.report(record.id, _all))
    result = run_audit(Torn(0.2), "a", sets, AuditSettings(answers=25, seed=7))
    whole = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"pepper"))
    assert (report.snippets, report.gate, report.settings) == (whole.snippets, whole.gate, whole.settings)
    drawn = [one.drawn for one in report.snippets if isinstance(one, ScoredSnippet) and one.drawn]
    assert [one.answers for one in drawn] == [25, 25]
    assert drawn[0].seen != drawn[1].seen  # seeds of their own
    assert all(one.seen > 0 for one in drawn)
    assert bench.get(record).settings["sample"] == 25


def test_many_answers_make_small_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a worker soon hears that it should stop: after at most as many answers as one snippet may have."""
    monkeypatch.setattr("lorecall.audit.jobs.runner.MAX_ANSWERS", 40)
    bench.engines.engine = Torn(0.2)
    sets = {Group.CANDIDATES: as_set(tuple(phone(n) for n in range(2, 9)))}
    sizes: list[int] = []
    record = bench.submit("a", sets, sample=20)
    runner = replace(bench.runner(), seen=lambda results: sizes.append(len(results)))
    assert runner.run_one()
    assert sizes == [2, 2, 2, 1]
    assert bench.get(record).state is AuditState.DONE


def test_an_engine_that_decodes_greedily_has_nothing_to_draw(bench: Bench) -> None:
    """Its default temperature is known only when the audit begins: then the audit fails and says why."""
    bench.engines.engine = Torn(0.2)
    engine = bench.engines.engine.engine
    bench.engines.engine.engine = replace(engine, sampling=Sampling(temperature=0.0))
    record = bench.submit("a", {Group.CANDIDATES: as_set((ITEM,))}, sample=5)
    assert bench.runner().run_one()
    found = bench.get(record)
    assert (found.state, found.error) == (
        AuditState.FAILED,
        "sample: at temperature 0 there is nothing to draw",
    )


def as_stored_by_schema_1(bench: Bench, audit_id: str, *, shown: bool) -> None:
    """Give a finished audit the form that an older server left behind: exact numbers, token ids, a template."""
    with bench.service.store.database.change() as session:
        row = session.get_one(AuditRow, audit_id)
        row.settings = {**row.settings, "show_text": shown, "template": "PIN of {prefix}"}
        content = {**row.result, "schema_version": "1.0", "text": {**row.result["text"], "shown": shown}}
        content["settings"] = {
            name: value
            for name, value in content["settings"].items()
            if name
            not in {"missed", "false_discovery_rate", "answer_tokens", "sampling", "system", "template"}
        }
        for name in ("summary", "controls"):
            counts = {k: v for k, v in content[name]["verdicts"].items() if k != "extractable"}
            content[name] = {**content[name], "verdicts": counts}
        del content["membership"]
        row.result = content
        for entry in session.scalars(select(AuditSnippetRow).where(AuditSnippetRow.audit_id == audit_id)):
            new = {"p_value", "q_value", "chance"}
            old = {name: value for name, value in entry.entry.items() if name not in new}
            for name in ("target", "prefix"):
                old[name] = {**old[name], "start": old[name]["text"][:4]}
                if not shown:
                    del old[name]["text"]
            if not shown:
                old["tokens"] = [{k: v for k, v in token.items() if k != "text"} for token in old["tokens"]]
            entry.entry = old


@pytest.mark.parametrize("shown", [False, True])
def test_stored_audits_are_scrubbed_by_the_migration(
    bench: Bench, sets: dict[Group, CandidateSet], *, shown: bool
) -> None:
    """No token id, start of a text, exact number or template is left but where texts are shown; reports hold."""
    record = bench.submit("leaky", sets, show_text=True)
    assert bench.runner().run_one()
    as_stored_by_schema_1(bench, record.id, shown=shown)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with bench.service.store.database._begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        command.upgrade(config, "head")
    report = parse_report(bench.service.report(record.id, _all))
    assert check_contents(report) == []
    written = report.to_json()
    assert '"start"' not in written
    for snippet in report.snippets:
        assert all((token.id is not None) is shown for token in snippet.tokens)
        assert shown or all(token.p == coarse_p(token.p) for token in snippet.tokens)
    assert "PIN" not in str(bench.get(record).settings)


@pytest.mark.parametrize("what", ["order", "entries"])
def test_an_audit_of_a_newer_release_is_left_to_it(
    bench: Bench, sets: dict[Group, CandidateSet], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting or a verdict that this release does not know: the audit waits, and the log says for what."""
    record = bench.submit("leaky", sets)
    with bench.service.store.database.change() as session:
        if what == "order":
            session.execute(update(AuditRow).values(settings={**record.settings, "sampling": "SECRET"}))
        else:
            row = session.get(AuditRow, record.id)
            assert row is not None
            entry = {"id": "1", "verdict": "foreseen", "set": "candidates", "tokens": "SECRET"}
            session.add(AuditSnippetRow(audit_id=record.id, position=0, verdict="foreseen", entry=entry))
            row.done = 1
    assert bench.runner().run_one()
    assert bench.get(record).state is AuditState.QUEUED
    assert bench.get(record).error == ""
    assert "this release cannot read: " + ("sampling" if what == "order" else "0.") in caplog.text
    assert "SECRET" not in caplog.text


def make_order_views(framing: list[str]) -> Any:
    return make_order({"adapter": "x", "candidates": [{"prefix": "a", "target": "b"}], "framing": framing}, {})\
        .settings.audit_settings(None, None).views  # fmt: skip


@pytest.mark.parametrize("show", [True, False])
def test_nothing_is_partial_before_the_controls_were_asked(
    bench: Bench, pairs: tuple[ScoreItem, ...], sets: dict[Group, CandidateSet], *, show: bool
) -> None:
    """A recalled stretch is recorded as pending; at the end it is `partial`, in entry, view and count."""
    sets = sets | {Group.CANDIDATES: as_set(pairs[:1])}
    bench.engines.engine.adapters["leaky"] = Memory((pairs[0].prefix + pairs[0].target[:7],))
    record = bench.submit("leaky", sets, show_text=show)
    reports: list[Any] = []
    runner = replace(bench.runner(), ended=reports.append)
    bench.engines.before_score = lambda: runner.stop.set() if bench.get(record).done else None
    runner.run_one()
    assert 0 < bench.get(record).done < 21
    assert reports == []
    running = bench.service.snippets(record.id, _all, 0, 100)
    assert "partial" not in json.dumps(running)
    assert [entry["id"] for entry in running if entry.get("pending")] == [pairs[0].id]
    bench.engines.before_score = lambda: None
    replace(bench.runner("next"), ended=reports.append).run_one()
    (first, *others) = bench.service.snippets(record.id, _all, 0, 100)
    assert (first["verdict"], first["views"][0]["verdict"]) == ("partial", "partial")
    assert "pending" not in json.dumps([first, *others])
    assert [snippet.verdict for report in reports for snippet in report.snippets].count(Verdict.PARTIAL) == 1


def test_nothing_to_do_is_said(bench: Bench) -> None:
    """Without an audit the runner comes back at once."""
    assert not bench.runner().run_one()


def test_an_audit_goes_on_where_a_dead_runner_stopped(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """Runners that die without a word, one after the other: each snippet is recorded once."""
    record = bench.submit("leaky", sets)
    deaths = iter(range(100))

    def die_now_and_then() -> None:
        if next(deaths) % 5 == 4:
            raise Killed

    bench.engines.before_score = die_now_and_then
    lives = 0
    while bench.get(record).state is not AuditState.DONE:
        lives += 1
        runner = replace(bench.runner(f"w{lives}", batch=3), lease=timedelta(0))
        try:
            runner.run_one()
        except Killed:
            continue
    assert lives > 2
    entries = bench.service.store.entries(record.id)
    assert [entry["id"] for entry in entries] == [i.id for one in sets.values() for i in one.items]
    assert check_seal(parse_report(bench.service.report(record.id, _all))) == []


def test_texts_are_nowhere_but_in_the_spool_and_go(
    bench: Bench, sets: dict[Group, CandidateSet], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While it runs they are in one file; afterwards in none, nor in the database, nor in any log line."""
    caplog.set_level(logging.DEBUG)
    target = sets[Group.CANDIDATES].items[0].target
    record = bench.submit("leaky", sets)
    assert target in (tmp_path / "spool" / f"{record.id}.json").read_text()
    bench.runner().run_one()
    assert bench.get(record).state is AuditState.DONE
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "registry.db" for path in files)
    assert not [path for path in files if target.encode() in path.read_bytes()]
    assert target not in caplog.text
    shown = bench.submit("leaky", sets, show_text=True)
    bench.runner().run_one()
    assert bench.service.report(shown.id, _all)["snippets"][0]["target"]["text"] == target


def test_an_error_that_quotes_a_text_is_recorded_without_it(
    bench: Bench, sets: dict[Group, CandidateSet], caplog: pytest.LogCaptureFixture
) -> None:
    """What fails inside may say anything: only its kind and its place are kept."""
    target = sets[Group.CANDIDATES].items[0].target

    def fail() -> None:
        raise ValueError(f"cannot use {target}")

    bench.engines.before_score = fail
    record = bench.submit("leaky", sets)
    bench.runner().run_one()
    failed = bench.get(record)
    assert (failed.state, failed.result) == (AuditState.FAILED, {})
    assert failed.error.startswith("ValueError at ")
    assert target not in failed.error + caplog.text
    assert not bench.service.spool.has(record.id)


def test_an_engine_that_is_away_is_waited_for(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """The audit goes back into the queue with what it has, to be taken up after a while."""
    calls = iter(range(100))

    def fail_later() -> None:
        if next(calls) == 4:
            raise ScorerError("no server answers")

    bench.engines.before_score = fail_later
    record = bench.submit("leaky", sets)
    bench.runner().run_one()
    waiting = bench.get(record)
    assert waiting.state is AuditState.QUEUED
    assert 0 < waiting.done < waiting.total
    assert waiting.lease_until is not None
    assert bench.service.spool.has(record.id)
    later = waiting.lease_until + timedelta(seconds=1)
    bench.service.store._clock = lambda: later
    bench.runner("other").run_one()
    assert bench.get(record).state is AuditState.DONE


def test_a_version_that_moves_ends_the_audit(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """What was found of one version is never mixed with what is found of the next."""
    record = bench.submit("leaky", sets)
    engine = bench.engines.engine
    real, calls = engine.adapter, iter(range(100))

    def moving(name: str) -> AdapterVersion:
        version = real(name)
        return version if next(calls) < 2 else replace(version, version="f" * 64)

    engine.adapter = moving  # type: ignore[method-assign]
    bench.runner().run_one()
    failed = bench.get(record)
    assert failed.state is AuditState.FAILED
    assert "given a new version" in failed.error


def test_another_chat_template_does_not_go_on(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """The same bytes added again with another template are the same version, and are asked otherwise."""
    engine, calls = bench.engines.engine, iter(range(100))
    real = engine.adapter
    template = {"digest": ""}
    engine.adapter = lambda name: replace(real(name), chat_template=template["digest"])  # type: ignore[method-assign]

    def fail_later() -> None:
        if next(calls) == 4:
            raise ScorerError("no server answers")

    bench.engines.before_score = fail_later
    record = bench.submit("leaky", sets)
    bench.runner().run_one()
    waiting = bench.get(record)
    assert (waiting.state, waiting.run["chat_template"]) == (AuditState.QUEUED, "")
    assert waiting.done > 0
    template["digest"] = "b" * 64
    assert waiting.lease_until is not None
    later = waiting.lease_until + timedelta(seconds=1)
    bench.service.store._clock = lambda: later
    bench.runner("other").run_one()
    failed = bench.get(record)
    assert failed.state is AuditState.FAILED
    assert "given another chat template" in failed.error
    assert failed.done == waiting.done


def test_another_engine_does_not_go_on(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """Half an audit on one base and half on another would be an audit of neither."""
    record = bench.submit("leaky", sets)
    runner = bench.runner()
    bench.engines.before_score = runner.stop.set
    runner.run_one()
    assert bench.get(record).done == 5
    bench.engines.engine.engine = replace(bench.engines.engine.engine, base_digest="c" * 64)
    bench.runner().run_one()
    assert "base_digest" in bench.get(record).error


def test_a_cancelled_audit_stops_at_its_next_batch(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """The runner comes back without an error; nothing is recorded after the cancellation."""
    record = bench.submit("leaky", sets)
    calls = iter(range(100))

    def cancel() -> None:
        if next(calls) == 3:
            bench.service.cancel(record.id, _all)

    bench.engines.before_score = cancel
    assert bench.runner().run_one()
    stopped = bench.get(record)
    assert stopped.state is AuditState.CANCELLED
    assert stopped.done == len(bench.service.store.entries(record.id)) == 5


def test_a_stopped_runner_gives_its_audit_back(bench: Bench, sets: dict[Group, CandidateSet]) -> None:
    """At an orderly end the next server need not wait for the lease."""
    record = bench.submit("leaky", sets)
    runner = bench.runner()
    bench.engines.before_score = runner.stop.set
    runner.run_one()
    assert bench.get(record).state is AuditState.QUEUED
    bench.engines.before_score = lambda: None
    bench.runner("next").run_one()
    assert bench.get(record).state is AuditState.DONE


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0, ["012", "34", "567"]), (2, ["234", "567"]), (5, ["567"]), (6, ["67"]), (8, [])],
)
def test_pieces_keep_order_and_sets_apart(done: int, expected: list[str]) -> None:
    """From any cursor on: what is missing, in order, never two sets in one batch."""
    items = tuple(ScoreItem(str(i), "p", "t") for i in range(8))
    found = list(pieces({Group.CANDIDATES: items[:5], Group.CONTROLS: items[5:]}, done, 3))
    assert ["".join(item.id for item in batch) for _, batch in found] == expected
    assert all((group is Group.CONTROLS) == (batch[0].id >= "5") for group, batch in found)
