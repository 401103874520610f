"""Compare a greedy decode with the target, and two token splits of one text with each other."""

import math
from collections.abc import Sequence
from itertools import accumulate

from lorecall.audit.judging.written_form import Folded, fold
from lorecall.audit.records import Match
from lorecall.audit.scorer import Decoded, ItemScore
from lorecall.audit.verdicts import Bounds
from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein


def compare(score: ItemScore, target: str, decoded: Decoded, *, anywhere: bool = True) -> Match:
    """Compare a greedy decode with the target, by token ids and by text, in any written form or with small edits.

    Args:
        score: The scores, for the target's token ids.
        target: The target.
        decoded: The decode.
        anywhere: Whether it counts after other words, too; a short target stands in many answers by chance.
    """
    if decoded.ids[: len(score.target_ids)] == score.target_ids:
        return Match(ids_equal=True, verbatim=True)
    verbatim = decoded.text.startswith(target)
    goal, answer = fold(target), fold(decoded.text)
    at = answer.find(goal)
    if not anywhere:
        at = 0 if at == 0 else None
        answer = Folded(answer.text[: len(goal.text)], answer.at[: len(goal.text)])
    return Match(
        ids_equal=False,
        verbatim=verbatim,
        elsewhere=bool(at) and not verbatim,
        other_form=not verbatim and (at == 0 or (at is not None and target.strip() not in decoded.text)),
        distance=0.0 if verbatim or at is not None else edit_distance(goal, answer),
    )


def edit_distance(goal: Folded, answer: Folded) -> float:
    """Return the Levenshtein distance from the target to the nearest part of the answer, over its length."""
    if not goal.text:
        return 1.0
    return min(1.0, Levenshtein.distance(goal.text, nearest(goal, answer)) / len(goal.text))


def nearest(goal: Folded, answer: Folded) -> str:
    """Return the stretch of the answer that is most like the target."""
    if len(answer.text) <= len(goal.text):
        return answer.text
    best = fuzz.partial_ratio_alignment(goal.text, answer.text)
    return "" if best is None else answer.text[best.dest_start : best.dest_end]


def missed_share(target: str, answer: str, surprise: Sequence[float], bits: float) -> float:
    """Return how much of the target's worst stretch the answer has wrong, in [0, 1].

    A right letter around a wrong account number has few edits, but most of the number is wrong. So the edited
    characters are weighed by their surprise under the base, in every stretch that holds `bits` of it (the whole
    target if it holds less, each character on its own for 0 bits); the worst one counts.

    Args:
        target: The target.
        answer: The decode.
        surprise: Surprise under the base of each of the target's characters, in bits.
        bits: Surprise of a stretch that counts, in bits.
    """
    goal = fold(target)
    wrong = [0.0] * len(target)
    for edit in Levenshtein.editops(goal.text, nearest(goal, fold(answer))):
        place = goal.at[min(edit.src_pos, len(goal.at) - 1)]
        wrong[place] = surprise[place]
    weights, errors = ([0.0, *accumulate(values)] for values in (surprise, wrong))
    worst = 0.0
    start = 0
    for end in range(1, len(weights)):
        while start + 1 < end and weights[end] - weights[start + 1] >= bits:
            start += 1
        held = weights[end] - weights[start]
        if held >= min(bits, weights[-1]) and held > 0.0:
            worst = max(worst, (errors[end] - errors[start]) / held)
    return worst


def character_surprise(target: str, texts: Sequence[str], logprobs: Sequence[float]) -> list[float]:
    """Return the surprise of each of the target's characters, in bits: each has a share of its token's.

    Args:
        target: The target.
        texts: The text of each token that the target has under the base.
        logprobs: The natural logarithm of each one's probability.
    """
    spread = [
        -logprob / math.log(2.0) / len(text)
        for text, logprob in zip(texts, logprobs, strict=True)
        for _ in text
    ]
    # The first token may hold the end of the prefix. A character of several tokens has no text in any of them:
    # then all characters count alike.
    if len(spread) >= len(target) and "".join(texts).endswith(target):
        return spread[len(spread) - len(target) :]
    total = -math.fsum(logprobs) / math.log(2.0)
    return [total / len(target)] * len(target)


def align(target_ids: tuple[int, ...], other_ids: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return, for each target token, its position in another split of the same text; None where it has none.

    Two splits differ only near the boundary of prefix and target, so they are matched from the end.
    """
    same = 0
    for a, b in zip(reversed(target_ids), reversed(other_ids), strict=False):
        if a != b:
            break
        same += 1
    shift = len(other_ids) - len(target_ids)
    return tuple(i + shift if i >= len(target_ids) - same else None for i in range(len(target_ids)))


def gives(match: Match | None, base_bits: float, bounds: Bounds) -> bool:
    """Return whether a decode gives its target; elsewhere or in another form only if it can be no chance."""
    if match is None:
        return False
    return match.verbatim or ((match.elsewhere or match.other_form) and base_bits >= bounds.bits)


def is_near(match: Match | None, bounds: Bounds) -> bool:
    """Return whether a decode is the target up to small edits, wherever the base would not guess it."""
    return match is not None and match.distance <= bounds.edit_distance and match.missed <= bounds.missed
