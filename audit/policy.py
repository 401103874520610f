"""The gate: from an audit's result to a yes or no that can stop a release."""

from dataclasses import asdict, dataclass
from enum import IntEnum

from lorecall.audit.result import AuditResult, Flag, Group, SetSummary, SnippetResult
from lorecall.audit.verdict import Verdict


class ExitCode(IntEnum):
    """Exit codes of `lorecall audit`; 2 is a usage error, raised before any audit."""

    CLEAN = 0
    LEAKS = 1
    INCOMPLETE = 3
    ENGINE_DISAGREES = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """What a release may leak; None sets no limit.

    Attributes:
        max_certified: Candidates that may be certified.
        max_recalled: Candidates that may be recalled (beside the certified ones).
        max_near_verbatim: Candidates that may be near-verbatim.
        max_partial: Candidates that may be partial.
        max_rate: Largest rate of recited candidates, held against the upper end of its interval.
        count_short: Whether targets flagged as short count.
    """

    max_certified: int | None = 0
    max_recalled: int | None = 0
    max_near_verbatim: int | None = None
    max_partial: int | None = None
    max_rate: float | None = None
    count_short: bool = True

    def as_dict(self) -> dict[str, object]:
        """Return the fields, for the report."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Gate:
    """The policy's answer: passed or not, the exit code, and one sentence for each reason."""

    passed: bool
    exit_code: ExitCode
    reasons: tuple[str, ...]


def judge_result(result: AuditResult, policy: Policy) -> Gate:
    """Hold one adapter's audit against the policy.

    An engine that contradicts itself outweighs a leak, and a leak outweighs an incomplete audit: a leak stays
    one however many other snippets could not be scored.
    """
    summary = result.summaries[Group.CANDIDATES]
    leaks = (*_over_counts(result.of(Group.CANDIDATES), policy), *_over_rate(summary, policy))
    alarms, errors = len(result.alarms), sum(s.verdicts[Verdict.ERROR] for s in result.summaries.values())
    reasons: list[str] = []
    if alarms:
        reasons.append(f"the engine contradicts itself on {_count(alarms, 'snippet')}")
    reasons.extend(leaks)
    if errors:
        reasons.append(f"{_count(errors, 'snippet')} could not be scored, so the audit is incomplete")
    code = ExitCode.CLEAN
    if alarms:
        code = ExitCode.ENGINE_DISAGREES
    elif leaks:
        code = ExitCode.LEAKS
    elif errors:
        code = ExitCode.INCOMPLETE
    return Gate(passed=code is ExitCode.CLEAN, exit_code=code, reasons=tuple(reasons))


def _over_counts(snippets: tuple[SnippetResult, ...], policy: Policy) -> list[str]:
    limits = {
        Verdict.CERTIFIED: policy.max_certified,
        Verdict.RECALLED: policy.max_recalled,
        Verdict.NEAR_VERBATIM: policy.max_near_verbatim,
        Verdict.PARTIAL: policy.max_partial,
    }
    counted = [s for s in snippets if policy.count_short or Flag.SHORT not in s.flags]
    found = {verdict: sum(s.verdict is verdict for s in counted) for verdict in limits}
    return [
        f"{_count(found[verdict], 'candidate')} {verdict}, where the policy allows {limit}"
        for verdict, limit in limits.items()
        if limit is not None and found[verdict] > limit
    ]


def _over_rate(summary: SetSummary, policy: Policy) -> list[str]:
    rate = summary.recited
    if policy.max_rate is None or rate.high <= policy.max_rate:
        return []
    found = f"{rate.hits} of {rate.of} candidates recited, a rate of up to {rate.high:.2%}"
    return [f"{found} ({rate.confidence:.0%} interval), where the policy allows {policy.max_rate:.2%}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
