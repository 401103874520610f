"""What a report says over all snippets, computed again from its entries: rates, membership, gate."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from lorecall.audit.extraction import Extraction
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import AuditResult, Epsilon, SetSource, SetSummary, StratumOutcome
from lorecall.audit.records import Undecoded as UndecodedRecord
from lorecall.audit.reports.build import multiplicity
from lorecall.audit.reports.models import ReportModel
from lorecall.audit.reports.report import (
    Calibration,
    Membership,
    Report,
    Sequential,
    Stratum,
    Summary,
    Undecoded,
)
from lorecall.audit.scorer import AdapterVersion, EngineInfo
from lorecall.audit.stats.calibration import calibrate
from lorecall.audit.stats.decoding_check import undecoded
from lorecall.audit.stats.strata import Size, StratifiedTest, replay, stratum_of, taken_of
from lorecall.audit.stats.tally import Tally, rates
from lorecall.audit.verdicts import Bounds, Flag, Group, Verdict
from pydantic import ValidationError

if TYPE_CHECKING:
    from lorecall.audit.estimates import Calibration as CalibrationRecord
    from lorecall.audit.estimates import Membership as MembershipRecord

TOLERANCE = 1e-6
"""Relative: what two releases of a library for statistics may differ in."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What came out.

    Attributes:
        problems: What is not what it should be.
        unchecked: What could not be computed again, and why.
    """

    problems: tuple[str, ...]
    unchecked: tuple[str, ...]


def recompute(report: Report) -> Recomputed:
    """Compute again what follows from the entries, as far as they are all there."""
    left_out = {group: getattr(report.omitted, group) or 0 for group in Group}
    tallies = {group: Tally() for group in Group if getattr(report, _name(group)) is not None}
    unchecked = [
        f"{_name(group)}: {count} snippets were left out, so its counts can only be too small"
        for group, count in left_out.items()
        if count
    ]
    problems = [
        f"there are {e}, and no summary of them" for e in {s.set for s in report.snippets} - set(tallies)
    ]
    if problems:
        return Recomputed(tuple(problems), tuple(unchecked))
    numbers = []
    for entry in report.snippets:
        numbers.append(tallies[entry.set].count)
        judged = entry.judged()
        if report.settings.sampling is None:  # an older release did not look for what sampling gives
            judged = replace(judged, unknown_chance=False)
        tallies[entry.set].add(judged)
    complete = not any(left_out.values())
    if not complete:
        unchecked.append(
            "calibration, membership, p_value and q_value: they compare all snippets with all controls"
        )
    elif report.membership is None and report.settings.false_discovery_rate == 1.0:
        unchecked.append(
            "membership: an older release wrote the report, which compared nothing with controls"
        )
    else:
        problems += _compare(report, tallies, numbers)
    for group, tally in tallies.items():
        problems += _check_summary(report, group, tally, left_out[group])
    problems += _check_tags(report, tallies[Group.CANDIDATES], unchecked, left_out[Group.CANDIDATES])
    problems += _check_sequential(report, unchecked, complete=complete)
    problems += _check_gate(report, tallies, left_out, unchecked)
    return Recomputed(tuple(problems), tuple(unchecked))


def _name(group: Group) -> str:
    return "summary" if group is Group.CANDIDATES else str(group)


def same(found: Any, stated: Any) -> bool:
    """Return whether JSON values are the same, numbers up to `TOLERANCE`."""
    if isinstance(found, dict) and isinstance(stated, dict):
        return found.keys() == stated.keys() and all(same(found[name], stated[name]) for name in found)
    if isinstance(found, list) and isinstance(stated, list):
        return len(found) == len(stated) and all(map(same, found, stated))
    if isinstance(found, float) and isinstance(stated, float | int):
        return math.isclose(found, stated, rel_tol=TOLERANCE, abs_tol=1e-9)
    return bool(found == stated)


def _differing(where: str, found: ReportModel | None, stated: ReportModel | None, why: str) -> Iterator[str]:
    """Yield the fields of a part of the report that are not what was computed."""
    if found is None or stated is None:
        if found is not stated:
            yield f"{where} {why}"
        return
    values, others = found.values(), stated.values()
    for name in sorted(values.keys() | others.keys()):
        if not same(values.get(name), others.get(name)):
            yield f"{where}/{name} {why}"


def _compare(report: Report, tallies: dict[Group, Tally], numbers: list[int]) -> Iterator[str]:
    """Compare the snippets with the controls, tell the tallies, and yield what differs from the report."""
    settings = report.settings
    checked, found = calibrate(tallies, _sources(report), settings.false_discovery_rate, settings.confidence)
    why = "is not what its snippets give"
    calibration = None if checked is None else Calibration.model_validate(checked)
    yield from _differing("calibration", calibration, report.calibration, why)
    computed = None if found is None else Membership.model_validate(found)
    yield from _differing("membership", computed, report.membership, why)
    for entry, number in zip(report.snippets, numbers, strict=True):
        standing = tallies[entry.set].standing(number)
        for name, value in (("p_value", standing.p), ("q_value", standing.q)):
            if not same(value, getattr(entry, name)):
                yield f"snippet {entry.id!r}: {name} is not what the controls give"
        if tallies[entry.set].verdict(number) is not entry.verdict:
            yield f"snippet {entry.id!r}: {entry.verdict}, although it does not beat the controls"


def _check_summary(report: Report, group: Group, tally: Tally, left_out: int) -> Iterator[str]:
    stated: Summary = getattr(report, _name(group))
    confidence, where = report.settings.confidence, _name(group)
    found = tally.summary(confidence)
    if not left_out:
        computed = Summary.model_validate(found)
        yield from _differing(where, computed, stated, "is not what its snippets add up to")
        return
    unsure = _undecoded(stated, confidence)
    given = None if unsure is None else Undecoded.model_validate(unsure)
    yield from _differing(f"{where}/undecoded", given, stated.undecoded, "is not what its counts give")
    recited, leaked = rates(stated.verdicts, confidence, unsure)
    at_least = {
        "snippets": stated.snippets == tally.count + left_out == sum(stated.verdicts.values()),
        "tokens": stated.tokens >= found.tokens,
        "tokens_over_half": found.tokens_over_half <= stated.tokens_over_half <= stated.tokens,
        "verdicts": all(count >= found.verdicts[verdict] for verdict, count in stated.verdicts.items()),
    }
    yield from (
        f"{where}/{name} is not what its snippets add up to" for name, holds in at_least.items() if not holds
    )
    for name, rate in (("recited", recited), ("leaked", leaked)):
        computed_rate = type(getattr(stated, name)).model_validate(rate)
        yield from _differing(
            f"{where}/{name}", computed_rate, getattr(stated, name), "is not what its verdicts give"
        )


def _check_tags(report: Report, tally: Tally, unchecked: list[str], left_out: int) -> Iterator[str]:
    if left_out:
        unchecked.append("by_tag: its counts need all candidates")
        return
    found = tally.by_tag(report.settings.confidence)
    for tag in sorted(found.keys() | report.by_tag.keys()):
        computed = Summary.model_validate(found[tag]) if tag in found else None
        why = "is not what its snippets add up to"
        yield from _differing(f"by_tag/{tag}", computed, report.by_tag.get(tag), why)


def _check_sequential(report: Report, unchecked: list[str], *, complete: bool) -> Iterator[str]:
    """Take the candidates again in the same batches: the interval is that of all looks at once."""
    stated, asked = report.sequential, [s for s in report.snippets if s.set is Group.CANDIDATES]
    if stated is None:
        return
    if not complete or stated.batch is None:
        unchecked.append("sequential: its interval needs all candidates, and the size of the batches")
        return
    seen = [(stratum_of(s.tags), Flag.RANKED in s.flags, taken_of(s.verdict, s.flags)) for s in asked]
    if wrong := _misfit(report.strata, Counter((tag, ranked) for tag, ranked, *_ in seen)):
        yield wrong
        return
    sizes = {one.tag: Size(one.of, one.repeated, one.ranked) for one in report.strata}
    share = report.settings.checked_share
    economical = share is not None and share < 1.0
    test = StratifiedTest(sizes, stated.bound, stated.confidence, stated.batch, economical=economical)
    replay(test, seen, max(1, stated.batch))
    why = "is not what its snippets give"
    yield from _differing("sequential", Sequential.model_validate(test.outcome), stated, why)
    for found, one in zip(test.strata, report.strata, strict=True):
        yield from _differing(f"strata/{one.tag}", Stratum.model_validate(found), one, why)
    if stated.confidence != report.settings.confidence:
        yield "sequential/confidence is not that of the settings"


def _misfit(strata: Sequence[Stratum], asked: Counter[tuple[str, bool]]) -> str:
    """Return why the strata cannot be those of the candidates that were asked for, "" if they can."""
    if len({one.tag for one in strata}) < len(strata) or {tag for tag, _ in asked} - {
        one.tag for one in strata
    }:
        return "strata: one stands twice, or is missing"
    for one in strata:
        if asked[one.tag, True] != one.ranked or one.ranked + asked[one.tag, False] > one.of:
            return f"strata/{one.tag}: other candidates were asked for than it says"
    return ""


def _check_gate(
    report: Report, tallies: dict[Group, Tally], left_out: dict[Group, int], unchecked: list[str]
) -> Iterator[str]:
    if report.settings.sampling is None:
        unchecked.append("gate: an older release wrote the report, which judged by other rules")
        return
    try:
        policy = Policy.model_validate(report.gate.policy)
    except ValidationError:
        yield "gate/policy is no policy of this release"
        return
    if any(left_out.values()) and not policy.count_short:
        unchecked.append("gate: its policy leaves short targets out, and not all snippets are here")
        return
    result = _result(report, tallies)
    gate = judge_result(result, policy)
    for name in ("passed", "exit_code", "reasons"):
        if getattr(gate, name) != getattr(report.gate, name):
            yield f"gate/{name} is not what its policy gives"
    yield from _differing(
        "multiplicity", multiplicity(result), report.multiplicity, "is not what its rates give"
    )


def _result(report: Report, tallies: dict[Group, Tally]) -> AuditResult:
    """Return the audit that the report is of, without its snippets."""
    settings, engine, adapter = report.settings, report.engine, report.adapter
    names = Bounds.__dataclass_fields__
    confidence = settings.confidence
    by_tag = tallies[Group.CANDIDATES].by_tag(confidence)
    return AuditResult(
        adapter=AdapterVersion(adapter.name, adapter.version, adapter.rank, adapter.effective_parameters),
        engine=EngineInfo(engine.engine, engine.base, engine.base_digest, engine.scheme),
        epsilon=Epsilon(report.epsilon, report.epsilon_source),
        bounds=Bounds(**{name: getattr(settings, name) for name in names}),
        seed=settings.seed,
        confidence=confidence,
        views=settings.views,
        sources=_sources(report),
        snippets=(),
        started=report.started,
        seconds=report.seconds,
        summaries={
            group: _summary(getattr(report, _name(group)), tally.summary(confidence), confidence)
            for group, tally in tallies.items()
        },
        calibration=cast("CalibrationRecord | None", report.calibration),
        by_tag={
            tag: _summary(stated, by_tag.get(tag) or Tally().summary(confidence), confidence)
            for tag, stated in report.by_tag.items()
        },
        sequential=None if report.sequential is None else report.sequential.outcome(),
        strata=tuple(cast("tuple[StratumOutcome, ...]", report.strata)),
        membership=cast("MembershipRecord | None", report.membership),  # it has the same fields
        no_controls=report.no_controls or 0,
        checked_share=1.0 if settings.checked_share is None else settings.checked_share,
        extraction=Extraction() if settings.sampling is None else settings.sampling.extraction(),
    )


def _sources(report: Report) -> dict[Group, SetSource]:
    stated = {group: getattr(report.inputs, group) for group in Group}
    return {group: SetSource(**dict(one)) for group, one in stated.items() if one is not None}


def _summary(stated: Summary, counted: SetSummary, confidence: float) -> SetSummary:
    """Return a summary as the gate wants it: what the report states, and what only the entries tell."""
    unsure = _undecoded(stated, confidence)
    recited, leaked = rates(stated.verdicts, confidence, unsure)
    return SetSummary(
        snippets=stated.snippets,
        tokens=stated.tokens,
        tokens_over_half=stated.tokens_over_half,
        verdicts={verdict: stated.verdicts[verdict] for verdict in Verdict},
        telling=counted.telling,
        alarms=counted.alarms,
        delta_loss=stated.delta_loss,
        recited=recited,
        leaked=leaked,
        unknown_chances=stated.unknown_chances,
        not_asked=stated.not_asked,
        undecoded=unsure,
    )


def _undecoded(stated: Summary, confidence: float) -> UndecodedRecord | None:
    """Return what the stated counts give of the snippets that were not decoded."""
    found = stated.undecoded
    return None if found is None else undecoded(found.left_out, found.checked, found.found, confidence)
