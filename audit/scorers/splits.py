"""Where a text's prefix ends and its target begins, in tokens; both answers where they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorecall.audit.scorer import ItemScore

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """One way to cut a text: what is given, what is scored, and whether it is the only way."""

    prefix_ids: Ids
    target_ids: Ids
    exact: bool


def split_tokens(
    prefix_ids: Sequence[int], target_ids: Sequence[int], joint_ids: Sequence[int]
) -> list[Split]:
    """Return one split if tok(prefix) + tok(target) equals tok(prefix + target), else two.

    The second is the joint tokenization, cut where it leaves the prefix's own.
    """
    prefix, target, joint = tuple(prefix_ids), tuple(target_ids), tuple(joint_ids)
    if prefix + target == joint:
        return [Split(prefix, target, exact=True)]
    pairs = zip(prefix, joint, strict=False)
    cut = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(prefix), len(joint)))
    halves = Split(prefix, target, exact=False)
    return [halves, Split(joint[:cut], joint[cut:], exact=False)] if joint[cut:] else [halves]


def worse(scores: Sequence[ItemScore]) -> ItemScore:
    """Return the scores of the split in which the text is recalled the most."""
    usable = [score for score in scores if not score.error] or list(scores)
    return max(usable, key=lambda score: min(score.p, default=0.0))
