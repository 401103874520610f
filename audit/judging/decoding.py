"""Which snippets are decoded: all, or those whose scores leave the decode open and a random sample of the others.

Scores rule out only so much. That the first token is not the argmax rules out the one greedy path, and nothing
else: "Sure, the key is ..." is a recitation as well. But a text that a model gives, in whatever form and after
whatever words, it also recalls when it is led into it, but for the first tokens and for those that differ. A
near-verbatim decode has at least two thirds of the target's surprise right. So a decode is called ruled out where
less than `LEAST_RECALLED` of the surprise lies on tokens that greedy decoding could choose. That is no proof;
the sample of ruled-out snippets that are decoded nevertheless bounds how often it is wrong.
"""

import hashlib
import math
from dataclasses import dataclass

from lorecall.audit.judging.match import align
from lorecall.audit.scorer import ItemScore

LEAST_RECALLED = 0.5
"""Share of a target's surprise under the base that must be recalled, or its decode is ruled out."""

CHECKED_SHARE = 0.05
"""Share of the ruled-out snippets that are decoded nevertheless, in an economical audit."""


def within_reach(score: ItemScore, epsilon: float) -> tuple[bool, ...]:
    """Return, for each target token, whether greedy decoding could choose it: it trails no token by over 2ε."""
    lead = math.exp(2.0 * epsilon) * (1.0 + 1e-6)
    return tuple(p > 0.0 and top1 <= p * lead for p, top1 in zip(score.p, score.top1_p, strict=True))


def recalled_share(adapter: ItemScore, base: ItemScore, epsilon: float) -> float:
    """Return the share, in [0, 1], of the target's surprise under the base on tokens within the adapter's reach.

    A token that the base's split of the text does not have counts for nothing; 1 where there is no surprise.
    """
    places = align(adapter.target_ids, base.target_ids)
    surprise = [0.0 if at is None else -base.logprob[at] for at in places]
    total = math.fsum(surprise)
    if not total > 0.0:
        return 1.0
    reached = within_reach(adapter, epsilon)
    return math.fsum(bits for bits, held in zip(surprise, reached, strict=True) if held) / total


@dataclass(frozen=True, slots=True)
class Check:
    """Which of the ruled-out candidates are decoded nevertheless.

    Attributes:
        share: About how many of them, in [0, 1]; with 1 no decode is ruled out.
        seed: Of the draw.
    """

    share: float = 1.0
    seed: int = 0

    def draws(self, name: str) -> bool:
        """Return whether the candidate of that id is decoded: the same in every view, order and run."""
        digest = hashlib.sha256(f"decode/{self.seed}/{name}".encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64
