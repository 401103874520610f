"""The measured bound on an engine's logit error."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lorecall.audit.judging.epsilon import ENOUGH, FACTOR, FLOOR, bound, gap_moves, measure_epsilon
from lorecall.audit.scorer import ItemScore, ScoreItem

from tests.audit.conftest import memory_of
from tests.audit.tiny_scorer import BASE, TinyScorer

NOISE = 0.1


class Noisy(TinyScorer):
    """An engine each of whose logits is off by up to `NOISE`, anew in every run."""

    rng = np.random.default_rng(1)

    def distribution(self, model: str, context: bytes) -> Any:
        """The softmax of logits with noise in them."""
        row = super().distribution(model, context)
        row = row * np.exp(self.rng.uniform(-NOISE, NOISE, len(row)))
        return row / row.sum()


class Shifting(TinyScorer):
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
    """Alone, mixed, in any order: the same to the last bit, over enough tokens to say so."""
    assert measure_epsilon(engine, BASE, pairs, 0, 64) == 0.0


@pytest.mark.parametrize("count", [1, 12])
def test_noise_of_a_known_size_is_bounded_and_not_wildly(pairs: tuple[ScoreItem, ...], count: int) -> None:
    """Two runs may differ by twice the noise in each logit, so ε lies between the noise and a bit over that."""
    found = measure_epsilon(Noisy({"a": memory_of(pairs)}), "a", pairs[:count], 0, 64)
    assert NOISE <= found <= 2.0 * NOISE * FACTOR


def test_a_further_gap_moves_by_more_than_two_epsilon_no_more_often_than_stated() -> None:
    """20,000 simulated measures of m moves with heavy tails, and one more: over 2ε in at most 1 in m + 1."""
    moves = np.abs(np.random.default_rng(19).standard_cauchy((20_000, ENOUGH + 1)))
    over = float(np.mean([last > 2.0 * bound(first) for *first, last in moves.tolist()]))
    stated = 1.0 / (ENOUGH + 1)
    assert 0.5 * stated < over <= stated + 3.0 * math.sqrt(stated / 20_000)


def test_the_move_of_the_log_odds_is_found(pairs: tuple[ScoreItem, ...]) -> None:
    """A shift of 0.1 of the target alone: half of it, enlarged."""
    engine = Shifting({"a": memory_of(pairs)})
    assert measure_epsilon(engine, BASE, pairs, 0, 64) == pytest.approx(FACTOR * 0.05, rel=0.01)


def test_a_rival_that_moves_counts() -> None:
    """The target's own probability stands still, its rival's does not: the gap between them moved."""
    a = ItemScore("x", (1,), (2,), (0.2,), (math.log(0.2),), (2,), (7,), (0.5,))
    assert max(gap_moves(a, dataclasses.replace(a, top1_p=(0.4,)))) == pytest.approx(math.log(1.5))


def test_too_little_never_gives_zero() -> None:
    """One candidate of saturated tokens moves nothing that can be seen: a stated floor."""
    assert bound([0.0] * 5) == FLOOR
    assert bound([]) == FLOOR
    assert bound([1.0]) == FACTOR / 2
    assert bound([0.0] * 1000) == 0.0


def test_items_that_cannot_be_scored_are_left_out(engine: TinyScorer) -> None:
    """An error has no logits to move; the known texts are measured all the same."""
    assert measure_epsilon(engine, BASE, [ScoreItem("long", "a ", "x" * 1000)], 0, 64) == 0.0


class Dead(TinyScorer):
    """An engine that scores nothing."""

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Errors."""
        del model
        return [ItemScore(item.id, error="no") for item in items]


def test_an_engine_that_scores_nothing_has_the_floor(pairs: tuple[ScoreItem, ...]) -> None:
    """Nothing was measured, so nothing is believed."""
    assert measure_epsilon(Dead({"a": memory_of(pairs)}), "a", pairs[:1], 0, 64) == FLOOR
