"""Perplexity of a text, against its definition."""

import math

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.runs.perplexity import perplexity
from lorecall.audit.scorer import ScoreItem

from tests.audit.tiny_scorer import BASE, TinyScorer

WINDOWS = [ScoreItem("1", "the quick ", "brown fox"), ScoreItem("2", "the lazy ", "dog")]


def test_it_is_the_inverse_geometric_mean_of_the_token_probabilities() -> None:
    """Over the tokens of all windows together, not the mean over windows."""
    scorer = TinyScorer({})
    p = [value for score in scorer.score(BASE, WINDOWS) for value in score.p]
    found = perplexity(scorer, BASE, WINDOWS)
    assert found.tokens == len(p) == 12
    assert found.value == pytest.approx(math.prod(p) ** (-1 / len(p)))


def test_a_window_that_cannot_be_scored_is_told() -> None:
    """The figure of another text is no figure; nothing at all has none either."""
    scorer = TinyScorer({}, max_bytes=15)
    with pytest.raises(CandidateError, match="1 of 2 windows"):
        perplexity(scorer, BASE, WINDOWS)
    with pytest.raises(CandidateError, match="no tokens"):
        perplexity(scorer, BASE, [])
