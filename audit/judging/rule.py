"""The p > 0.5 rule: where every target token has more than one half, greedy decoding recites the target.

The rule is sufficient, not necessary: a token may be the argmax far below one half. So a snippet gets three
results that are never merged: certified (by probability), rank-1 (argmax everywhere) and decoded (observed).
Source of the rule: Xu et al., arXiv 2605.30260. Source of p_z and n: Hayes et al. 2024, arXiv 2410.19482.
"""

import math
from collections.abc import Sequence

from lorecall.audit.records import RuleResult
from lorecall.audit.scorer import ItemScore, Sampling

HALF = 0.5
NEAR_FROM = 0.3
ROUNDING = 1e-6


def threshold(epsilon: float) -> float:
    """Return sigmoid(2ε): a token over it stays the argmax when every logit moves by up to `epsilon`.

    The argmax leads every other token by at least ln(p / (1 - p)); two logits that move against each other
    close a gap of at most 2ε.

    Raises:
        ValueError: `epsilon` is negative or not finite.
    """
    if not math.isfinite(epsilon) or epsilon < 0:
        raise ValueError(f"epsilon must be a finite number >= 0, not {epsilon}")
    # It rounds to 1 for a large ε; nothing is ever over 1, so nothing is certified there.
    return 1.0 / (1.0 + math.exp(-2.0 * epsilon))


def margin(p: float) -> float:
    """Return ln(p / (1 - p)), the least lead in logits of a token with probability `p` over any other."""
    if p <= 0.0:
        return -math.inf
    if p >= 1.0:
        return math.inf
    return math.log(p) - math.log1p(-p)


def samples_for_extraction(log_pz: float, chance: float = 0.5) -> float:
    """Return log10 of the number of samples n at which a snippet is extracted with probability `chance`.

    (n, p)-discoverable extraction: 1 - (1 - p_z)^n >= chance, so n = ln(1 - chance) / ln(1 - p_z). It is
    computed in log space, because p_z of a long snippet underflows. At least one sample is needed.

    Args:
        log_pz: Natural logarithm of p_z, the product of the target's token probabilities.
        chance: The probability of at least one extraction, in (0, 1).
    """
    if log_pz == -math.inf:
        return math.inf
    p_z = math.exp(log_pz)
    if p_z >= 1.0:
        return 0.0
    # ln(1 - x) is -x to double precision long before exp() underflows.
    log10_rate = log_pz / math.log(10.0) if p_z < 1e-12 else math.log10(-math.log1p(-p_z))
    return max(0.0, math.log10(-math.log1p(-chance)) - log10_rate)


def chance_of_extraction(log_pz: float, samples: int) -> float:
    """Return 1 - (1 - p_z)^n, the probability that at least one of n answers is the text (Hayes et al. 2024).

    Args:
        log_pz: Natural logarithm of p_z, the product of the target's token probabilities under the scheme.
        samples: n, at least 1.
    """
    p_z = math.exp(log_pz)
    return 1.0 if p_z >= 1.0 else -math.expm1(samples * math.log1p(-p_z))


def sampled_log_pz(score: ItemScore, sampling: Sampling) -> float | None:
    """Return the natural logarithm of the target's probability under a sampling scheme.

    Returns:
        -inf where the scheme never gives it; None where the scorer cannot tell.
    """
    if sampling.plain:
        return math.fsum(score.logprob)
    if sampling.temperature == 0.0:
        return 0.0 if all(argmax_flags(score)) else -math.inf
    if score.sampled:
        return math.fsum(-math.inf if value is None else value for value in score.sampled)
    # A rank tells what top-k leaves out, whatever the temperature; that is all that plain scores tell.
    return -math.inf if 0 < sampling.top_k < max(score.rank) else None


def log_pz_at_most(score: ItemScore, sampling: Sampling) -> float:
    """Return an upper bound of `sampled_log_pz` that plain scores give, whatever the other tokens are.

    A token of rank r has r - 1 others over it, one of them the most likely: over the temperature its share is
    at most p^(1/T) / ((r - 1) p^(1/T) + top^(1/T)), and cutting those below it leaves that bound. Where T <= 1
    the most likely token has at least the probability that it has at temperature 1; if that fills the nucleus,
    the token is never drawn.
    """
    found = 0.0
    for logprob, rank, top in zip(score.logprob, score.rank, score.top1_p, strict=True):
        cut = 0 < sampling.top_k < rank
        outside = rank > 1 and sampling.temperature <= 1.0 and top > sampling.top_p + ROUNDING
        if cut or outside or logprob == -math.inf:
            return -math.inf
        if rank > 1:
            behind = (math.log(top) - logprob) / sampling.temperature
            # ln(rank - 1 + e^behind), which overflows only where the token is out of reach
            found -= behind + math.log1p((rank - 1) * math.exp(-behind))
    return found


def argmax_flags(score: ItemScore) -> tuple[bool, ...]:
    """Return, per target token, whether it is the one argmax (a tie that the target loses does not count)."""
    return tuple(
        rank == 1 and top1 == target
        for rank, top1, target in zip(score.rank, score.top1_ids, score.target_ids, strict=True)
    )


def longest_run(flags: Sequence[bool]) -> tuple[int, int]:
    """Return (length, start) of the first longest run of true flags; (0, 0) if there is none."""
    best, best_at, run = 0, 0, 0
    for position, flag in enumerate(flags):
        run = run + 1 if flag else 0
        if run > best:
            best, best_at = run, position - run + 1
    return best, best_at


def is_contradiction(p: float, rank: int, top1_p: float) -> bool:
    """Return whether the numbers of one token cannot all be true: over one half, and yet not the argmax."""
    return not 0.0 <= p <= 1.0 or (p > HALF and rank != 1) or top1_p < p - 1e-6


def apply_rule(score: ItemScore, epsilon: float) -> RuleResult:
    """Apply the rule to one item's scores.

    Args:
        score: Scores with at least one target token and no error.
        epsilon: Measured bound on the engine's per-logit error.

    Raises:
        ValueError: The item failed, has no target token, or its arrays differ in length.
    """
    if score.error or not score.p:
        raise ValueError(f"item {score.id!r} has no scores: {score.error or 'no target tokens'}")
    line = threshold(epsilon)
    flags = argmax_flags(score)
    locked = tuple(i for i, p in enumerate(score.p) if p > line and flags[i])
    run, run_at = longest_run(flags)
    min_p_at = min(range(len(score.p)), key=score.p.__getitem__)
    log_pz = math.fsum(score.logprob)
    numbers = zip(score.p, score.rank, score.top1_p, strict=True)
    return RuleResult(
        tokens=len(score.p),
        over_half=sum(p > HALF for p in score.p),
        locked=locked,
        near=tuple(i for i, p in enumerate(score.p) if NEAR_FROM <= p <= HALF),
        ties=tuple(i for i, rank in enumerate(score.rank) if rank == 1 and not flags[i]),
        certified=len(locked) == len(score.p),
        rank1=all(flags),
        min_p=score.p[min_p_at],
        min_p_at=min_p_at,
        loss=-log_pz / len(score.p),
        log_pz=log_pz,
        log10_n50=samples_for_extraction(log_pz),
        first_failing=None if all(flags) else flags.index(False),
        longest_run=run,
        longest_run_at=run_at,
        contradiction=next((i for i, (p, r, t) in enumerate(numbers) if is_contradiction(p, r, t)), None),
    )
