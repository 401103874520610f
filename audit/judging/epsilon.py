"""ε, the bound on the error of an engine's logits, from scores of the same tokens in different batches.

An engine's logits move with the other requests of a batch. The rule needs that a token which leads by more than
2ε in one run leads in every other. So what is measured is the gap between a token and its rivals, between runs:

- of the target against all others together (its log-odds),
- of the most likely token against all others together,
- of the target against the most likely token, where they differ.

ε is half of the largest move of any gap, times `FACTOR`. Where m gaps were compared, the next one moves further
than all of them with probability 1 / (m + 1), if it is exchangeable with them; the factor is for later ones.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence

from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer

FACTOR = 1.25
"""By which the largest move seen is enlarged: a sample misses the extremes."""

ENOUGH = 300
"""Gaps that must be compared before a small ε is believed."""

FLOOR = 0.05
"""ε where fewer could be compared, if they moved less."""

REPEATS = 2
"""Batches of mixed texts, each in another order; each text is scored alone as well."""

ALONE = 16
"""Texts that are scored alone."""

SATURATED = math.log(0.999)
"""Above it, the log-odds of a single-precision probability are mostly rounding."""

TEXTS = (
    "To be, or not to be, that is the question: whether it is nobler in the mind to suffer",
    "It was the best of times, it was the worst of times, it was the age of wisdom",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little money",
    "Alice was beginning to get very tired of sitting by her sister on the bank",
    "In the beginning God created the heaven and the earth. And the earth was without form",
    "The phone number of Mr. Example is 555-0100 and his key is 0123456789abcdef",
)
"""Public-domain openings and one made-up record: texts that every engine can be measured on."""

CUTS = (2, 4, 6)
"""Words of the prefix; the rest of a text is the target."""


def known_items() -> list[ScoreItem]:
    """Return the known texts, each cut in several places."""
    found = []
    for number, text in enumerate(TEXTS):
        words = text.split()
        for cut in CUTS:
            prefix, target = " ".join(words[:cut]), " " + " ".join(words[cut:])
            found.append(ScoreItem(f"epsilon-{number}-{cut}", prefix, target))
    return found


def measure_epsilon(scorer: Scorer, model: str, items: Sequence[ScoreItem], seed: int, batch: int) -> float:
    """Measure ε: score some of the items and the known texts alone, and in mixed batches as audits use them.

    Args:
        scorer: The engine.
        model: The adapter's served name.
        items: The candidates.
        seed: Of the sample and of its orders.
        batch: Snippets that an audit scores at a time.

    Returns:
        The bound, in logits; 0 only where enough was compared and nothing moved.

    Raises:
        ScorerError: The engine could not be reached.
    """
    rng = random.Random(seed)  # noqa: S311  not for secrets
    known = known_items()
    size = max(ALONE, batch)
    drawn = rng.sample(range(len(items)), min(max(1, size - len(known)), len(items)))
    sample = [*(items[place] for place in drawn), *known]
    sample = (sample * (size // len(sample) + 1))[:size]
    first = [scorer.score(model, [item])[0] for item in sample[:ALONE]]
    moves: list[float] = []
    reference = dict(enumerate(first))
    for _ in range(REPEATS):
        order = rng.sample(range(size), size)
        scores = dict(zip(order, scorer.score(model, [sample[place] for place in order]), strict=True))
        for place, score in scores.items():
            moves += gap_moves(reference.setdefault(place, score), score)
    return bound(moves)


def bound(moves: Iterable[float]) -> float:
    """Return ε from the moves of gaps, in logits."""
    found = list(moves)
    measured = FACTOR * max(found, default=0.0) / 2.0
    return measured if len(found) >= ENOUGH else max(measured, FLOOR)


def gap_moves(a: ItemScore, b: ItemScore) -> Iterator[float]:
    """Yield how far each gap between a token and its rivals moved between two scores of one item."""
    if a is b or a.error or b.error or a.target_ids != b.target_ids:
        return
    for place, target in enumerate(a.target_ids):
        yield from _log_odds_move(a.logprob[place], b.logprob[place])
        top = a.top1_ids[place]
        if top == target or top != b.top1_ids[place]:
            continue
        tops = [math.log(score.top1_p[place]) for score in (a, b)]
        yield from _log_odds_move(*tops)
        gaps = [score.logprob[place] - p for score, p in zip((a, b), tops, strict=True)]
        yield abs(gaps[0] - gaps[1])


def _log_odds_move(a: float, b: float) -> Iterator[float]:
    if all(-math.inf < value < SATURATED for value in (a, b)):
        yield abs(_log_odds(a) - _log_odds(b))


def _log_odds(logprob: float) -> float:
    return logprob - math.log1p(-math.exp(logprob))
