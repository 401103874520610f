"""Compare a greedy decode with the target, and two token splits of one text with each other."""

import unicodedata

import numpy as np
from lorecall.audit.records import Bounds, Match
from lorecall.audit.scorer import Decoded, ItemScore


def normalise(text: str) -> str:
    """Return the text in Unicode form NFKC, case-folded, with runs of white space as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prefix_edit_distance(text: str, target: str) -> float:
    """Return the least Levenshtein distance of any prefix of `text` to `target`, over len(target), in [0, 1].

    A decode may run on past the target, so what follows its best prefix costs nothing.
    """
    if not target:
        return 0.0
    goal = np.frombuffer(target.encode("utf-32-le"), dtype=np.uint32)
    steps = np.arange(len(goal) + 1)
    row = steps.copy()
    best = int(row[-1])
    for symbol in np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32):
        row = np.concatenate(([row[0] + 1], np.minimum(row[1:] + 1, row[:-1] + (goal != symbol))))
        # An insertion costs 1 a step to the right: a running minimum of (row - steps), shifted back.
        row = np.minimum.accumulate(row - steps) + steps
        best = min(best, int(row[-1]))
    return best / len(goal)


def compare(score: ItemScore, target: str, decoded: Decoded) -> Match:
    """Compare a greedy decode with the target, by token ids and by text."""
    ids_equal = decoded.ids[: len(score.target_ids)] == score.target_ids
    if ids_equal:
        return Match(ids_equal=True, verbatim=True, normal_equal=True, distance=0.0)
    wanted = normalise(target)
    return Match(
        ids_equal=False,
        verbatim=decoded.text.startswith(target),
        normal_equal=bool(wanted) and normalise(decoded.text).startswith(wanted),
        distance=prefix_edit_distance(decoded.text, target),
    )


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


def recites(match: Match | None, bounds: Bounds) -> bool:
    """Return whether a decode recites its target, verbatim or nearly."""
    return match is not None and (match.verbatim or is_near(match, bounds))


def is_near(match: Match, bounds: Bounds) -> bool:
    """Return whether a decode is the target up to a small edit, case, spacing or Unicode form."""
    return match.normal_equal or match.distance <= bounds.edit_distance
