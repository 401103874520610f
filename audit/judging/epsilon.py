"""Measure how far an engine's logits move when only the other requests of a batch change."""

import math
import random
from collections.abc import Sequence

from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer

SAMPLE = 16
SAFETY = 2.0
SATURATED = 0.999  # above, the log-odds of a single-precision probability are mostly rounding


def measure_epsilon(scorer: Scorer, model: str, items: Sequence[ScoreItem], seed: int) -> float:
    """Measure a bound on the per-logit error: score a sample alone, together, and together in reverse.

    The log-odds of a token move by at most 2ε when every logit moves by at most ε, so half of the largest
    move seen bounds ε from below; it is doubled, because a sample misses the extremes.

    Returns:
        The bound, in logits; 0 if nothing moved.

    Raises:
        ScorerError: The engine could not be reached.
    """
    places = random.Random(seed).sample(range(len(items)), min(SAMPLE, len(items)))  # noqa: S311  not for secrets
    sample = [items[place] for place in places]
    together = scorer.score(model, sample)
    reverse = scorer.score(model, sample[::-1])[::-1]
    alone = [scorer.score(model, [item])[0] for item in sample]
    moves = [_largest_move(a, b) for other in (reverse, alone) for a, b in zip(together, other, strict=True)]
    return SAFETY * max(moves, default=0.0) / 2.0


def _largest_move(a: ItemScore, b: ItemScore) -> float:
    if a.error or b.error:
        return 0.0
    pairs = zip(a.logprob, b.logprob, strict=True)
    return max(
        (abs(_log_odds(x) - _log_odds(y)) for x, y in pairs if _is_finite(x) and _is_finite(y)), default=0.0
    )


def _is_finite(logprob: float) -> bool:
    return -math.inf < logprob < math.log(SATURATED)


def _log_odds(logprob: float) -> float:
    return logprob - math.log1p(-math.exp(logprob))
