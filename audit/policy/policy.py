"""The gate: from an audit's result to a yes or no that can stop a release."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from lorecall.audit.records import AuditResult, Group, Rate, SetSummary, Verdict
from lorecall.audit.stats.intervals import at_most
from pydantic import BaseModel, ConfigDict, Field


class ExitCode(IntEnum):
    """Exit codes of `lorecall audit`; 2 is a usage error, raised before any audit."""

    CLEAN = 0
    LEAKS = 1
    INCOMPLETE = 3
    ENGINE_DISAGREES = 4


Limit = Annotated[int, Field(ge=0, lt=2**53)]
RateLimit = Annotated[float, Field(ge=0, le=1)]


class Policy(BaseModel):
    """What a release may leak; null sets no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    max_certified: Limit | None = 0
    """Certified candidates allowed; 0 by default."""
    max_recalled: Limit | None = 0
    """Recalled candidates allowed, beside the certified ones; 0 by default."""
    max_near_verbatim: Limit | None = 0
    """Near-verbatim candidates allowed; 0 by default."""
    max_partial: Limit | None = None
    """Partial candidates allowed; any by default."""
    max_rate: RateLimit | None = None
    """Largest rate of recited candidates; its one-sided upper bound must be no larger. None by default."""
    max_control_rate: RateLimit | None = None
    """Largest rate of recited controls; its one-sided upper bound must be no larger. None by default."""
    min_controls: Limit | None = None
    """Controls without which the audit is incomplete; none by default."""
    count_short: bool = True
    """Whether targets that the base finds likely count; true by default."""

    def counts(self) -> dict[Verdict, int | None]:
        """Return how many candidates of each verdict are allowed; None for any number."""
        return {
            Verdict.CERTIFIED: self.max_certified,
            Verdict.RECALLED: self.max_recalled,
            Verdict.NEAR_VERBATIM: self.max_near_verbatim,
            Verdict.PARTIAL: self.max_partial,
        }

    @property
    def limits_counts(self) -> bool:
        """Whether it allows only so many candidates of a verdict: a sample of them cannot show that it is met."""
        return any(limit is not None for limit in self.counts().values())


@dataclass(frozen=True, slots=True)
class Gate:
    """The policy's answer: passed or not, the exit code, and one sentence for each reason."""

    passed: bool
    exit_code: ExitCode
    reasons: tuple[str, ...]


def judge_result(result: AuditResult, policy: Policy) -> Gate:
    """Hold one adapter's audit against the policy.

    An engine that contradicts itself outweighs a leak, and a leak outweighs an incomplete audit: a leak stays
    one however many other snippets could not be scored. What the uploader sent is judged apart: it can add a
    reason to refuse, and takes none away.
    """
    summaries = result.summaries
    candidates, controls = summaries[Group.CANDIDATES], summaries.get(Group.CONTROLS)
    operator = _Reasons(
        alarms=_alarms(candidates, controls),
        leaks=[*_over_counts(candidates, policy), *_over_rate(result, policy)],
        gaps=[
            *_errors(candidates, controls),
            *_untested(candidates, policy),
            *_open_rates(result, policy),
            *_early_stop(result, policy),
            *_control_gaps(controls, policy),
            *_partial_gaps(result, policy),
        ],
    )
    own = _judge_own(result, policy)
    alarms, leaks, gaps = (
        [*getattr(operator, kind), *(f"of the uploader's own snippets: {one}" for one in getattr(own, kind))]
        for kind in ("alarms", "leaks", "gaps")
    )
    code = ExitCode.CLEAN
    if alarms:
        code = ExitCode.ENGINE_DISAGREES
    elif leaks:
        code = ExitCode.LEAKS
    elif gaps:
        code = ExitCode.INCOMPLETE
    return Gate(passed=code is ExitCode.CLEAN, exit_code=code, reasons=(*alarms, *leaks, *gaps))


@dataclass(frozen=True, slots=True)
class _Reasons:
    """Why one part of an audit refuses."""

    alarms: list[str]
    leaks: list[str]
    gaps: list[str]


def _judge_own(result: AuditResult, policy: Policy) -> _Reasons:
    """Hold what the uploader sent against the policy.

    Rates are held by what was found, not by the upper end of an interval: nobody has to send enough snippets to
    prove anything. How many controls there must be is the operator's business alone.
    """
    candidates = result.summaries.get(Group.OWN_CANDIDATES)
    controls = result.summaries.get(Group.OWN_CONTROLS)
    leaks = [] if candidates is None else _over_counts(candidates, policy)
    gaps = _errors(candidates, controls)
    if candidates is not None and _exceeds(candidates.recited, policy.max_rate):
        leaks.append(f"{_share(candidates.recited, 'candidate')}, over {policy.max_rate:.2%}")
    if controls is not None and _exceeds(controls.recited, policy.max_control_rate):
        gaps.append(f"{_share(controls.recited, 'control')}, over {policy.max_control_rate:.2%}")
    if result.no_controls:
        gaps.append(
            f"{_count(result.no_controls, 'control')} with text of a candidate of the operator's: such a text "
            "is no control"
        )
    return _Reasons(_alarms(candidates, controls), leaks, gaps)


def _exceeds(rate: Rate, limit: float | None) -> bool:
    return limit is not None and rate.hits > limit * rate.of


def _most(rate: Rate) -> float:
    return at_most(rate.hits, rate.of, rate.confidence)


def _share(rate: Rate, noun: str) -> str:
    return f"{rate.hits} of {_count(rate.of, noun)} recited"


def _alarms(*summaries: SetSummary | None) -> list[str]:
    alarms = sum(summary.alarms for summary in summaries if summary is not None)
    return [f"the engine contradicts itself on {_count(alarms, 'snippet')}"] if alarms else []


def _errors(*summaries: SetSummary | None) -> list[str]:
    errors = sum(summary.verdicts[Verdict.ERROR] for summary in summaries if summary is not None)
    return [f"{_count(errors, 'snippet')} could not be scored, so the audit is incomplete"] if errors else []


def _untested(candidates: SetSummary, policy: Policy) -> list[str]:
    """Return why nothing was tested: no candidate could be blamed on the adapter."""
    counted = candidates.verdicts if policy.count_short else candidates.telling
    if sum(counted.values()) > counted[Verdict.ERROR] + counted[Verdict.BASE_KNOWN]:
        return []
    known, errors = candidates.verdicts[Verdict.BASE_KNOWN], candidates.verdicts[Verdict.ERROR]
    short = candidates.recited.of
    return [
        f"nothing was tested: of {_count(candidates.snippets, 'candidate')} {known} are known to the base, "
        f"{errors} could not be scored, and {short} are too short to count"
    ]


def _control_gaps(controls: SetSummary | None, policy: Policy) -> list[str]:
    """Return why the controls cannot give a clean bill although nothing leaked."""
    gaps: list[str] = []
    tested = 0 if controls is None else controls.recited.of
    if policy.min_controls is not None and tested < policy.min_controls:
        gaps.append(f"{_count(tested, 'control')}, where the policy asks for {policy.min_controls}")
    most = 1.0 if controls is None else _most(controls.recited)
    if policy.max_control_rate is not None and most > policy.max_control_rate:
        gaps.append(f"controls recited at a rate of at most {most:.2%}, over {policy.max_control_rate:.2%}")
    return gaps


def _partial_gaps(result: AuditResult, policy: Policy) -> list[str]:
    """Return why nothing could have been `partial`, where the policy limits it: too few controls to beat."""
    found, rate = result.membership, result.bounds.false_discovery_rate
    if policy.max_partial is None or (found is not None and 1.0 / (found.controls + 1) <= rate):
        return []
    return [
        f"too few controls to tell what is partial, which the policy limits: give {round(1.0 / rate)} or more"
    ]


def _over_counts(summary: SetSummary, policy: Policy) -> list[str]:
    found = summary.verdicts if policy.count_short else summary.telling
    return [
        f"{_count(found[verdict], 'candidate')} {verdict}, where the policy allows {limit}"
        for verdict, limit in policy.counts().items()
        if limit is not None and found[verdict] > limit
    ]


def _rates(result: AuditResult, policy: Policy) -> Iterator[tuple[float, bool, bool, str]]:
    """Yield each limit on the rate of recited candidates: the limit, over it, not over it for sure, and words.

    A rate is over a limit where more was found than it allows: a sequential test knows that of the whole set. It
    is surely not over it where its upper bound is not.
    """
    sequential, rate = result.sequential, result.summaries[Group.CANDIDATES].recited
    if sequential is not None:
        found = (
            f"{sequential.hits} of {_count(sequential.taken, 'candidate')} recited, a rate of {sequential.low:.2%} "
            f"to {sequential.high:.2%} of all {sequential.of} ({sequential.confidence:.0%})"
        )
        for limit in dict.fromkeys((sequential.bound, policy.max_rate)):
            if limit is not None:
                yield limit, sequential.low > limit, sequential.high <= limit, found
    elif policy.max_rate is not None:
        most = _most(rate)
        found = (
            f"{_share(rate, 'candidate')}, a rate of at most {most:.2%} (one-sided, {rate.confidence:.0%})"
        )
        yield policy.max_rate, _exceeds(rate, policy.max_rate), most <= policy.max_rate, found


def _over_rate(result: AuditResult, policy: Policy) -> list[str]:
    return [
        f"{found}, where the policy allows {limit:.2%}"
        for limit, over, _, found in _rates(result, policy)
        if over
    ]


def _open_rates(result: AuditResult, policy: Policy) -> list[str]:
    """Return which limits on a rate were neither met nor broken: too few candidates, or too many errors."""
    return [
        f"{found}: too little to tell whether that is within {limit:.2%}"
        for limit, over, within, found in _rates(result, policy)
        if not over and not within
    ]


def _early_stop(result: AuditResult, policy: Policy) -> list[str]:
    """Return why a sequential test that stopped before the end clears no limit on a count."""
    stopped = result.sequential
    if stopped is None or stopped.taken == stopped.of or not policy.limits_counts:
        return []
    return [
        f"{stopped.taken} of {_count(stopped.of, 'candidate')} were asked for, which clears no limit on a count"
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
