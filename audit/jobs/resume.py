"""The report of an audit, made from the entries that it recorded batch by batch."""

from collections.abc import Iterable, Sequence
from typing import Any

from lorecall.audit.extraction import Extraction
from lorecall.audit.inputs.controls import overlapping
from lorecall.audit.jobs.spool import Texts
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import AuditResult, Epsilon
from lorecall.audit.reports.build import build_report, final_entry
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.snippets import Snippet
from lorecall.audit.runs.planned import stratified
from lorecall.audit.runs.single import AuditSettings, secret_of
from lorecall.audit.scorer import AdapterVersion, EngineInfo
from lorecall.audit.stats.calibration import calibrate
from lorecall.audit.stats.strata import StratifiedTest, replay, stratum_of, taken_of
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import Flag, Group
from pydantic import TypeAdapter


def recorded_report(
    adapter: AdapterVersion,
    run: dict[str, Any],
    texts: Texts,
    settings: AuditSettings,
    policy: Policy,
    redactor: Redactor,
    entries: Sequence[Snippet],
    seconds: float,
) -> Report:
    """Return the report of an audit whose snippets were recorded.

    Args:
        adapter: The audited version.
        run: What the first batch fixed: `engine`, `epsilon` and `extraction` with their sources, `started`; see
            `AuditRecord`.
        texts: Its sets.
        settings: Its settings.
        policy: The limits that the result must meet.
        redactor: How the entries show texts.
        entries: All entries, in order.
        seconds: Time spent on them.
    """
    tallies = {group: Tally() for group in texts.sets}
    numbers = []
    for entry in entries:
        numbers.append(tallies[entry.set].count)
        tallies[entry.set].add(entry.judged())
    sources = {group: given.source for group, given in texts.sets.items()}
    rate = settings.bounds.false_discovery_rate
    calibration, membership = calibrate(tallies, sources, rate, settings.confidence)
    final = [_beside_controls(e, tallies[e.set], number) for e, number in zip(entries, numbers, strict=True)]
    summaries = {group: tally.summary(settings.confidence) for group, tally in tallies.items()}
    test = _recorded_test(texts, settings, final)
    result = AuditResult(
        adapter=adapter,
        engine=TypeAdapter(EngineInfo).validate_python(run["engine"]),
        epsilon=Epsilon(**run["epsilon"]),
        bounds=settings.bounds,
        seed=settings.seed,
        confidence=settings.confidence,
        views=tuple(view.label for view in settings.views),
        sources=sources,
        snippets=(),
        started=run["started"],
        seconds=seconds,
        summaries=summaries,
        calibration=calibration,
        membership=membership,
        by_tag=tallies[Group.CANDIDATES].by_tag(settings.confidence),
        no_controls=no_controls(texts),
        system=secret_of(settings.views, "system"),
        template=secret_of(settings.views, "template"),
        extraction=read_extraction(run),
        checked_share=settings.checked_share,
        sequential=None if test is None else test.outcome,
        strata=() if test is None else test.strata,
    )
    return build_report(result, judge_result(result, policy), policy, redactor, entries=final)


def _recorded_test(
    texts: Texts, settings: AuditSettings, entries: Iterable[Snippet]
) -> StratifiedTest | None:
    """Return the test of the plan after all that was recorded; None where all candidates were asked for.

    Args:
        texts: The audit's sets.
        settings: Its settings.
        entries: What was recorded, in the order in which it was asked for.
    """
    plan = settings.plan(texts.sets)
    if plan is None:
        return None
    economical = settings.checked_share < 1.0
    test = stratified(plan, None, settings.confidence, settings.chunk, economical=economical)
    seen = (
        (stratum_of(one.tags), Flag.RANKED in one.flags, taken_of(one.verdict, one.flags))
        for one in entries
        if one.set is Group.CANDIDATES
    )
    replay(test, seen, settings.chunk)
    return test


def read_extraction(run: dict[str, Any]) -> Extraction:
    """Return what is extractable in an audit that was begun, of `AuditRecord.run`."""
    return TypeAdapter(Extraction).validate_python(run.get("extraction", {}))


def _beside_controls(entry: Snippet, tally: Tally, number: int) -> Snippet:
    """Return an entry with what its comparison with the controls gave."""
    standing = tally.standing(number)
    return final_entry(entry, tally.verdict(number), standing.p, standing.q)


def no_controls(texts: Texts) -> int:
    """Return how many of the uploader's controls share text with the operator's candidates.

    It is said when the audit is over, and as a number only: an answer to the upload would let a stranger try out
    which texts the operator looks for.
    """
    own = texts.sets.get(Group.OWN_CONTROLS)
    return 0 if own is None else len(overlapping(texts.sets[Group.CANDIDATES].items, own.items))
