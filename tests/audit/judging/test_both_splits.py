"""A text that the tokenizer splits in two ways is scored and decoded in both."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lorecall.audit.judging.judge import Judge
from lorecall.audit.records import SnippetResult
from lorecall.audit.scorer import Decoded, ItemScore, ScoreItem
from lorecall.audit.scorers.base_cache import BaseCache
from lorecall.audit.verdicts import Bounds, Group, Verdict

from tests.audit.tiny_scorer import BASE, TinyScorer

HALVES = ((1, 2), (3, 4))
JOINT = ((1,), (23, 4))
TEXT = "target text"


def scored(ids: tuple[tuple[int, ...], tuple[int, ...]], p: float, rank: int) -> ItemScore:
    """Scores of one split, each of two tokens with the probability `p`."""
    two = (p, p)
    first = ids[1] if rank == 1 else (99, 99)
    tops = two if rank == 1 else (0.6, 0.6)
    logs = (math.log(p),) * 2
    return ItemScore("x", ids[0], ids[1], two, logs, (rank, rank), first, tops, boundary_exact=False)


class Split(TinyScorer):
    """Given scores of both splits, and given answers to each one's prefix, by model."""

    def __init__(
        self, said: dict[str, dict[tuple[int, ...], Decoded]], p: dict[str, tuple[float, float]]
    ) -> None:
        super().__init__({})
        self.said, self.p = said, p

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """The two splits."""
        halves, joint = self.p[model]
        other = scored(JOINT, joint, 1 if joint > 0.5 else 2)
        one = scored(HALVES, halves, 1 if halves > 0.5 else 2)
        return [replace(one, other=other) for _ in items]

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """What is said after a prefix."""
        return [self.said[model].get(tuple(ids), Decoded((0,), "nothing")) for ids, _ in prompts]


def judged(scorer: Split) -> SnippetResult:
    judge = Judge(scorer, "a", BaseCache(scorer, BASE), 0.0, Bounds())
    return judge.judge([(Group.CANDIDATES, ScoreItem("x", "a prefix ", TEXT))])[0]


RIGHT = Decoded(JOINT[1], TEXT)
FLAT = (0.01, 0.01)


def test_a_text_that_only_the_less_likely_split_gives_is_found() -> None:
    """Halves are the likelier split and decode to nothing; after the joint split's prefix the text comes."""
    scorer = Split({"a": {JOINT[0]: RIGHT}, BASE: {}}, {"a": (0.3, 0.2), BASE: FLAT})
    found = judged(scorer)
    assert found.verdict is Verdict.RECALLED
    assert found.score is not None
    assert found.score.target_ids == JOINT[1]


def test_the_base_is_asked_in_the_same_split() -> None:
    """What the base says after the other split's prefix excuses nothing; after the same one it does."""
    elsewhere = Split(
        {"a": {JOINT[0]: RIGHT}, BASE: {HALVES[0]: Decoded(HALVES[1], TEXT)}},
        {"a": (0.01, 0.9), BASE: (0.9, 0.01)},
    )
    assert judged(elsewhere).verdict is Verdict.CERTIFIED
    same = Split({"a": {JOINT[0]: RIGHT}, BASE: {JOINT[0]: RIGHT}}, {"a": (0.01, 0.9), BASE: (0.01, 0.9)})
    assert judged(same).verdict is Verdict.BASE_KNOWN


def test_an_alarm_of_either_split_is_kept() -> None:
    """The engine that is sure of the halves and says something else contradicts itself."""
    scorer = Split({"a": {JOINT[0]: RIGHT}, BASE: {}}, {"a": (0.9, 0.8), BASE: FLAT})
    found = judged(scorer)
    assert found.verdict is Verdict.CERTIFIED
    assert found.alarm
