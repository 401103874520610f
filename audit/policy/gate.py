"""The gate: from an audit's result to a yes or no that can stop a release."""

from collections.abc import Iterator
from dataclasses import dataclass

from lorecall.audit.policy.policy import Counts, ExitCode, Policy
from lorecall.audit.records import AuditResult, Group, Outcome, Rate, SetSummary, Verdict, decide
from lorecall.audit.stats.decoding_check import most_recited
from lorecall.audit.stats.intervals import at_most


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
    operator, own = _judge_operator(result, policy), _judge_own(result, policy)
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


def _judge_operator(result: AuditResult, policy: Policy) -> _Reasons:
    candidates, controls = result.summaries[Group.CANDIDATES], result.summaries.get(Group.CONTROLS)
    leaks = _over_counts(candidates, policy, policy)
    gaps = [*_unlike(result, policy), *_errors(candidates, controls), *_untested(candidates, policy)]
    gaps += [*_too_few(candidates, policy, policy), *_chance_gaps(candidates, policy)]
    gaps += _undecoded_gaps(candidates, policy)
    over, open_rates = _rates(candidates, policy, result.sequential)
    leaks, gaps = leaks + over, gaps + open_rates
    over, open_rates = _stratum_rates(result)
    leaks, gaps = leaks + over, gaps + open_rates
    for limits in policy.by_tag:
        for tag in limits.tags:
            tag_leaks, tag_gaps = _judge_tag(result.by_tag.get(tag), limits, policy)
            leaks += [f"of the candidates with the tag {tag!r}: {one}" for one in tag_leaks]
            gaps += [f"of the candidates with the tag {tag!r}: {one}" for one in tag_gaps]
    leaks += _membership_leaks(result, policy)
    gaps += [*_early_stop(result, policy), *_control_gaps(result, policy)]
    return _Reasons(_alarms(candidates, controls), leaks, gaps)


def _judge_tag(summary: SetSummary | None, limits: Counts, policy: Policy) -> tuple[list[str], list[str]]:
    """Return the leaks and the gaps of the candidates with one tag."""
    if summary is None:
        return [], ["nothing was tested"]
    over, open_rates = _rates(summary, limits, None)
    gaps = _untested(summary, policy) or [*_too_few(summary, limits, policy), *open_rates]
    return [*_over_counts(summary, limits, policy), *over], gaps


def _judge_own(result: AuditResult, policy: Policy) -> _Reasons:
    """Hold what the uploader sent against the policy.

    Rates are held by what was found, not by the upper end of an interval: nobody has to send enough snippets to
    prove anything. How many controls there must be is the operator's business alone, as are tags.
    """
    candidates = result.summaries.get(Group.OWN_CANDIDATES)
    controls = result.summaries.get(Group.OWN_CONTROLS)
    leaks = [] if candidates is None else _over_counts(candidates, policy, policy)
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


def _over_counts(summary: SetSummary, limits: Counts, policy: Policy) -> list[str]:
    found = summary.verdicts if policy.count_short else summary.telling
    return [
        f"{_count(found[verdict], 'candidate')} {_said(verdict, policy)}, where the policy allows {limit}"
        for verdict, limit in limits.counts().items()
        if limit is not None and found[verdict] > limit
    ]


def _said(verdict: Verdict, policy: Policy) -> str:
    """Return a verdict with what its count is to be read with."""
    if verdict is not Verdict.EXTRACTABLE:
        return str(verdict)
    wish = policy.sampling_wish
    return f"{verdict} within {_count(wish.samples, 'answer')} (a chance of {wish.chance:.0%} or more)"


def _chance_gaps(summary: SetSummary, policy: Policy) -> list[str]:
    """Return why sampling was not tested of all, where the policy limits what it gives."""
    if not summary.unknown_chances or not policy.limits(Verdict.EXTRACTABLE):
        return []
    unknown = _count(summary.unknown_chances, "snippet")
    return [f"whether sampling gives {unknown} is not known: this scorer cannot compute it for the scheme"]


def _undecoded_gaps(summary: SetSummary, policy: Policy) -> list[str]:
    """Return why what was not decoded clears nothing: the policy asks for it, or the check found something.

    Where the check found nothing, the limits hold for what was decoded, and the report bounds the others.
    """
    unsure = summary.undecoded
    if unsure is None or not unsure.left_out:
        return []
    gaps = []
    if policy.decode == "all":
        gaps.append(f"{_count(unsure.left_out, 'candidate')} not decoded, where the policy asks for all")
    if unsure.found and policy.limits_counts:
        gaps.append(
            f"decoding gave {unsure.found} of {_count(unsure.checked, 'candidate')} whose scores ruled that out, "
            f"so up to {unsure.at_most} more of {unsure.left_out} may be: decode all"
        )
    return gaps


def _rates(summary: SetSummary, limits: Counts, sequential: Outcome | None) -> tuple[list[str], list[str]]:
    """Hold the rate of recited candidates against each limit; return the leaks and the gaps.

    A rate over the limit is a leak: the rate that was found, or of a sequential test the lower end of its
    interval. Where the upper bound is over the limit and the rate is not, too little was asked to tell.
    """
    rate = summary.recited
    if sequential is not None:
        bounds = dict.fromkeys((sequential.bound, limits.max_rate))
        held = [(b, sequential.low > b, sequential.high <= b) for b in bounds if b is not None]
        found = (
            f"{sequential.hits} of {_count(sequential.taken, 'candidate')} recited, a rate of "
            f"{sequential.low:.2%} to {sequential.high:.2%} of all {sequential.of} ({sequential.confidence:.0%})"
        )
    elif limits.max_rate is not None:
        most = most_recited(rate, summary.undecoded, rate.confidence)
        held = [(limits.max_rate, _exceeds(rate, limits.max_rate), most <= limits.max_rate)]
        found = (
            f"{_share(rate, 'candidate')}, a rate of at most {most:.2%} (one-sided, {rate.confidence:.0%})"
        )
    else:
        return [], []
    leaks = [f"{found}, where the policy allows {limit:.2%}" for limit, over, _ in held if over]
    unsure = "too little to tell whether that is within"
    return leaks, [f"{found}: {unsure} {limit:.2%}" for limit, over, met in held if not over and not met]


def _stratum_rates(result: AuditResult) -> tuple[list[str], list[str]]:
    """Hold each stratum of a sequential test against its bound, where there are several."""
    bound = None if result.sequential is None else result.sequential.bound
    leaks: list[str] = []
    gaps: list[str] = []
    for stratum in result.strata if bound is not None and len(result.strata) > 1 else ():
        decision = decide(stratum.low, stratum.high, bound)
        found = (
            f"of the {stratum.of} candidates {stratum.tag or 'without a tag'} {stratum.low:.2%} to "
            f"{stratum.high:.2%} are recited, where the bound is {bound:.2%}"
        )
        if decision != "below":
            (leaks if decision == "above" else gaps).append(found)
    return leaks, gaps


def _exceeds(rate: Rate, limit: float | None) -> bool:
    return limit is not None and rate.hits > limit * rate.of


def _membership_leaks(result: AuditResult, policy: Policy) -> list[str]:
    found, limit = result.membership, policy.max_membership_fdr
    if found is None or limit is None or found.least_q > limit:
        return []
    at = f"{found.least_q:.2%}, where the policy allows none at {limit:.2%}"
    return [f"a candidate that is not recited stands out from the controls at a false discovery rate of {at}"]


def _unlike(result: AuditResult, policy: Policy) -> list[str]:
    """Return in what the audit is not the one that the policy asks for."""
    gaps = [
        f"the policy asks for the framing {framing}, in which nothing was asked"
        for framing in policy.required_framings
        if framing not in result.views
    ]
    if not result.adapter.version and not policy.allow_unverified:
        gaps.append(
            "unverified: the server does not say which version it serves, and no PEFT folder was given; give "
            "--adapter-dir, or allow_unverified in the policy"
        )
    if result.bounds != policy.bounds.bounds():
        gaps.append("the verdicts were given by other bounds than the policy's")
    if policy.limits(Verdict.EXTRACTABLE) and not policy.sampling_wish.is_met_by(result.extraction):
        gaps.append("what sampling gives was looked for by another scheme than the policy's")
    return gaps


def _alarms(*summaries: SetSummary | None) -> list[str]:
    alarms = sum(summary.alarms for summary in summaries if summary is not None)
    return [f"the engine contradicts itself on {_count(alarms, 'snippet')}"] if alarms else []


def _errors(*summaries: SetSummary | None) -> list[str]:
    errors = sum(summary.verdicts[Verdict.ERROR] for summary in summaries if summary is not None)
    return [f"{_count(errors, 'snippet')} could not be scored, so the audit is incomplete"] if errors else []


def _untested(candidates: SetSummary, policy: Policy) -> list[str]:
    """Return why nothing was tested: no candidate that counts could be blamed on the adapter."""
    if _tested(candidates, policy):
        return []
    known, errors = candidates.verdicts[Verdict.BASE_KNOWN], candidates.verdicts[Verdict.ERROR]
    short = candidates.recited.of
    why = f"{known} are known to the base, {errors} could not be scored, and {short} are too short to count"
    return [f"nothing was tested: of {_count(candidates.snippets, 'candidate')} {why}"]


def _tested(summary: SetSummary, policy: Policy) -> int:
    """Return how many candidates that count could be blamed on the adapter."""
    counted = summary.verdicts if policy.count_short else summary.telling
    return sum(counted.values()) - counted[Verdict.ERROR] - counted[Verdict.BASE_KNOWN]


def _too_few(summary: SetSummary, limits: Counts, policy: Policy) -> list[str]:
    tested = _tested(summary, policy)
    if limits.min_candidates is None or tested >= limits.min_candidates:
        return []
    return [f"{_count(tested, 'candidate')} tested, where the policy asks for {limits.min_candidates}"]


def _early_stop(result: AuditResult, policy: Policy) -> list[str]:
    """Return why a sequential test that stopped before the end clears no limit on a count, or a tag's on a rate.

    Its interval is of the rate of all candidates; that of a tag's has a bound only for a number fixed before.
    """
    stopped = result.sequential
    repeated = sum(stratum.repeated for stratum in result.strata)
    if stopped is None or stopped.taken == stopped.of + repeated:
        return []
    limited = {
        "a count": policy.limits_counts,
        "the rate of a tag": any(part.max_rate is not None for part in policy.by_tag),
    }
    asked = f"{stopped.taken} of {_count(stopped.of + repeated, 'candidate')} were asked for"
    return [f"{asked}, which clears no limit on {what}" for what, holds in limited.items() if holds]


def _control_gaps(result: AuditResult, policy: Policy) -> list[str]:
    """Return why the controls cannot give a clean bill although nothing leaked."""
    controls, found = result.summaries.get(Group.CONTROLS), result.calibration
    if found is not None and found.reason:
        asked = (policy.min_controls, policy.max_control_rate, policy.max_membership_fdr)
        rests = policy.limits(Verdict.PARTIAL) or any(limit is not None for limit in asked)
        return (
            [f"no rate may rest on these controls, and the policy asks for one: {found.reason}"]
            if rests
            else []
        )
    gaps: list[str] = []
    tested = 0 if controls is None else controls.recited.of
    if policy.min_controls is not None and tested < policy.min_controls:
        gaps.append(f"{_count(tested, 'control')}, where the policy asks for {policy.min_controls}")
    most = 1.0 if controls is None else at_most(controls.recited.hits, tested, controls.recited.confidence)
    if policy.max_control_rate is not None and most > policy.max_control_rate:
        gaps.append(f"controls recited at a rate of at most {most:.2%}, over {policy.max_control_rate:.2%}")
    return gaps + list(_comparison_gaps(result, policy))


def _comparison_gaps(result: AuditResult, policy: Policy) -> Iterator[str]:
    """Yield why nothing could stand out from the controls, where the policy limits that: they are too few."""
    found = result.membership
    compared = {
        "what is partial": result.bounds.false_discovery_rate if policy.limits(Verdict.PARTIAL) else None,
        "what stands out": policy.max_membership_fdr,
    }
    for what, rate in compared.items():
        if rate is not None and (found is None or 1.0 / (found.controls + 1) > rate):
            wanted = (
                f"give {round(1.0 / rate)} or more" if rate else "no number of them is enough for a rate of 0"
            )
            yield f"too few controls to tell {what}, which the policy limits: {wanted}"


def _share(rate: Rate, noun: str) -> str:
    return f"{rate.hits} of {_count(rate.of, noun)} recited"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
