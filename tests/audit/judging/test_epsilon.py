"""The measured bound on an engine's logit error."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
from lorecall.audit.judging.epsilon import measure_epsilon
from lorecall.audit.scorer import ItemScore, ScoreItem

from tests.audit.conftest import memory_of
from tests.audit.tiny_scorer import BASE, TinyScorer


class Wobbling(TinyScorer):
    """An engine whose target logits rise by `shift` when a request shares a batch."""

    shift = 0.1

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Scores with the error of a shared batch in them."""
        exact = super().score(model, items)
        return exact if len(items) == 1 else [self._moved(score) for score in exact]

    def _moved(self, score: ItemScore) -> ItemScore:
        odds = [math.exp(math.log(p / (1 - p)) + self.shift) for p in score.p]
        p = tuple(o / (1 + o) for o in odds)
        return dataclasses.replace(score, p=p, logprob=tuple(math.log(x) for x in p))


def test_an_exact_engine_has_none(engine: TinyScorer, pairs: tuple[ScoreItem, ...]) -> None:
    """Alone, together, in reverse: the same to the last bit."""
    assert measure_epsilon(engine, BASE, pairs, 0) == 0.0


def test_the_move_of_the_log_odds_is_found(pairs: tuple[ScoreItem, ...]) -> None:
    """A shift of 0.1 in the target's log-odds: half of it bounds ε from below, doubled for the sample."""
    assert measure_epsilon(Wobbling({"a": memory_of(pairs)}), BASE, pairs, 0) == pytest.approx(0.1)


def test_items_that_cannot_be_scored_are_left_out(engine: TinyScorer) -> None:
    """An error has no logits to move."""
    assert measure_epsilon(engine, BASE, [ScoreItem("long", "a ", "x" * 1000)], 0) == 0.0
