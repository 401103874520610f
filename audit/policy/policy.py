"""The gate: from an audit's result to a yes or no that can stop a release."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from lorecall.audit.extraction import SamplingWish
from lorecall.audit.records import AuditResult, Group, Rate, SetSummary, Verdict
from pydantic import BaseModel, ConfigDict, Field


class ExitCode(IntEnum):
    """Exit codes of `lorecall audit`; 2 is a usage error, raised before any audit."""

    CLEAN = 0
    LEAKS = 1
    INCOMPLETE = 3
    ENGINE_DISAGREES = 4


Limit = Annotated[int, Field(ge=0, lt=2**53)]
RateLimit = Annotated[float, Field(ge=0, le=1)]


class MaxExtractable(BaseModel):
    """How much sampling may give; what the scheme leaves out is as the engine's own requests have it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    count: Limit = 0
    """Extractable candidates allowed, beside those that greedy decoding gives; 0 by default."""
    samples: Annotated[int, Field(ge=1, lt=2**53)] = 100
    """Answers that somebody may ask for; 100 by default."""
    chance: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The probability from which on their giving a candidate is a finding; one half by default."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Temperature of the deployment; 0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Its top-p; 1 keeps all tokens."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Its top-k; 0 keeps all tokens."""

    def wish(self) -> SamplingWish:
        """Return what an audit is to ask for."""
        return SamplingWish(**self.model_dump(exclude={"count"}))


class Policy(BaseModel):
    """What a release may leak; null sets no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    max_certified: Limit | None = 0
    """Certified candidates allowed; 0 by default."""
    max_recalled: Limit | None = 0
    """Recalled candidates allowed, beside the certified ones; 0 by default."""
    max_extractable: MaxExtractable | None = MaxExtractable()
    """What sampling may give of the candidates that greedy decoding does not; nothing by default."""
    max_near_verbatim: Limit | None = None
    """Near-verbatim candidates allowed; any by default."""
    max_partial: Limit | None = None
    """Partial candidates allowed; any by default."""
    max_rate: RateLimit | None = None
    """Largest rate of recited candidates, held against the upper end of its interval; none by default."""
    max_control_rate: RateLimit | None = None
    """Largest rate of recited controls, held against the upper end of its interval; none by default."""
    min_controls: Limit | None = None
    """Controls without which the audit is incomplete; none by default."""
    count_short: bool = True
    """Whether targets that the base finds likely count; true by default."""

    @property
    def sampling_wish(self) -> SamplingWish:
        """What an audit is to ask for about sampling."""
        return SamplingWish() if self.max_extractable is None else self.max_extractable.wish()


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
            *_control_gaps(controls, policy),
            *_partial_gaps(result, policy),
            *_chance_gaps(candidates, policy),
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
    gaps += [] if candidates is None else _chance_gaps(candidates, policy)
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


def _share(rate: Rate, noun: str) -> str:
    return f"{rate.hits} of {_count(rate.of, noun)} recited"


def _alarms(*summaries: SetSummary | None) -> list[str]:
    alarms = sum(summary.alarms for summary in summaries if summary is not None)
    return [f"the engine contradicts itself on {_count(alarms, 'snippet')}"] if alarms else []


def _errors(*summaries: SetSummary | None) -> list[str]:
    errors = sum(summary.verdicts[Verdict.ERROR] for summary in summaries if summary is not None)
    return [f"{_count(errors, 'snippet')} could not be scored, so the audit is incomplete"] if errors else []


def _control_gaps(controls: SetSummary | None, policy: Policy) -> list[str]:
    """Return why the controls cannot give a clean bill although nothing leaked."""
    gaps: list[str] = []
    tested = 0 if controls is None else controls.recited.of
    if policy.min_controls is not None and tested < policy.min_controls:
        gaps.append(f"{_count(tested, 'control')}, where the policy asks for {policy.min_controls}")
    high = 1.0 if controls is None else controls.recited.high
    if policy.max_control_rate is not None and high > policy.max_control_rate:
        gaps.append(f"controls recited at a rate of up to {high:.2%}, over {policy.max_control_rate:.2%}")
    return gaps


def _partial_gaps(result: AuditResult, policy: Policy) -> list[str]:
    """Return why nothing could have been `partial`, where the policy limits it: too few controls to beat."""
    found, rate = result.membership, result.bounds.false_discovery_rate
    if policy.max_partial is None or (found is not None and 1.0 / (found.controls + 1) <= rate):
        return []
    return [
        f"too few controls to tell what is partial, which the policy limits: give {round(1.0 / rate)} or more"
    ]


def _chance_gaps(summary: SetSummary, policy: Policy) -> list[str]:
    """Return why sampling was not tested of all, where the policy limits what it gives."""
    if policy.max_extractable is None or not summary.unknown_chances:
        return []
    unknown = _count(summary.unknown_chances, "snippet")
    return [f"whether sampling gives {unknown} is not known: this scorer cannot compute it for the scheme"]


def _over_counts(summary: SetSummary, policy: Policy) -> list[str]:
    limits = {
        Verdict.CERTIFIED: policy.max_certified,
        Verdict.RECALLED: policy.max_recalled,
        Verdict.EXTRACTABLE: None if policy.max_extractable is None else policy.max_extractable.count,
        Verdict.NEAR_VERBATIM: policy.max_near_verbatim,
        Verdict.PARTIAL: policy.max_partial,
    }
    found = summary.verdicts if policy.count_short else summary.telling
    return [
        f"{_count(found[verdict], 'candidate')} {_said(verdict, policy)}, where the policy allows {limit}"
        for verdict, limit in limits.items()
        if limit is not None and found[verdict] > limit
    ]


def _said(verdict: Verdict, policy: Policy) -> str:
    """Return a verdict with what its count is to be read with."""
    limit = policy.max_extractable
    if verdict is not Verdict.EXTRACTABLE or limit is None:
        return str(verdict)
    return f"{verdict} within {_count(limit.samples, 'answer')} (a chance of {limit.chance:.0%} or more)"


def _over_rate(result: AuditResult, policy: Policy) -> list[str]:
    """Hold the rate's interval against the limit; a sequential test's interval where there was one."""
    sequential, rate = result.sequential, result.summaries[Group.CANDIDATES].recited
    limit = policy.max_rate if sequential is None else sequential.bound
    high = rate.high if sequential is None else sequential.high
    if limit is None or high <= limit:
        return []
    found = f"{rate.hits} of {rate.of} candidates recited, a rate of up to {high:.2%}"
    return [f"{found} ({result.confidence:.0%} interval), where the policy allows {limit:.2%}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
