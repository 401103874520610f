"""What the base said is remembered for what was asked."""

from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.scorers.base_cache import BaseCache

from tests.audit.tiny_scorer import BASE, TinyScorer


def test_the_same_answer_after_another_history_is_scored_anew() -> None:
    """The same text under another id is not."""
    scorer = TinyScorer({})
    cache = BaseCache(scorer, BASE)
    items = [
        ScoreItem("1", "", "ox", messages=(Message("user", "f"),)),
        ScoreItem("2", "", "ox", messages=(Message("user", "b"), Message("assistant", "f"))),
        ScoreItem("3", "f", "ox"),
        ScoreItem("4", "", "ox", messages=(Message("user", "f"),)),
    ]
    scores = cache.score(items)
    assert [name for _, name in scorer.scored] == ["4", "2", "3"]
    assert scores[0] == scores[3]
    assert [score.prefix_ids for score in scores[:3]] == [
        score.prefix_ids for score in TinyScorer({}).score(BASE, items[:3])
    ]
    cache.score(items)
    assert len(scorer.scored) == 3
