"""What an audit is said to cost: counted on its own candidates, and timed by a clock that the test holds."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.audit.records import Group
from lorecall.audit.runs.estimate import DECODED, WARM_UP, Probe, estimate, probe
from lorecall.audit.runs.plan import Budget, Costs
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.judging.test_decoding import CountingScorer
from tests.audit.tiny_scorer import TinyScorer

ITEMS = tuple(phone(i) for i in range(200))
FOUND = Probe(10, 100.0, 10.0, 1.0, 0.1)
SETTINGS = AuditSettings(chunk=20)


def ticks() -> Iterator[float]:
    """A clock of which each reading is two seconds after the last one."""
    return (2.0 * n for n in count())


def test_the_rates_are_those_of_the_clock() -> None:
    """Twenty texts through adapter and base in two seconds, and sixteen answers of 26 tokens in two more."""
    scorer, clock = TinyScorer({"a": memory_of(ITEMS[:20])}), ticks()
    found = probe(scorer, "a", ITEMS, SETTINGS, clock=lambda: next(clock))
    assert found is not None
    tokens = len(ITEMS[0].prefix) + len(ITEMS[0].target)  # of the tiny engine, bytes
    assert found.asked == 20
    assert found.scored_per_second == 2 * 20 * tokens / 2
    assert found.decoded_per_second == DECODED * 26 / 2
    assert found.bytes_per_token == 1.0
    assert len(scorer.scored) == 2 * (20 + WARM_UP)


@pytest.mark.parametrize("few", [1, 2, 3])
def test_a_handful_of_candidates_is_enough(few: int) -> None:
    """The warm-up's are measured where there are no others."""
    found = probe(TinyScorer({"a": memory_of(())}), "a", ITEMS[:few], SETTINGS)
    assert found is not None
    assert found.asked >= 1


def test_what_cannot_be_scored_measures_nothing() -> None:
    """None, and no number out of nothing."""
    long = tuple(ScoreItem(f"long{i}", "a ", "x" * 1000) for i in range(30))
    assert probe(TinyScorer({"a": memory_of(())}), "a", long, SETTINGS) is None


def test_a_refused_or_unknown_adapter_is_told_before_anything_is_scored() -> None:
    """As by the audit itself."""
    scorer = TinyScorer({"a": memory_of(())}, refusals={"a": "it trains lm_head"})
    with pytest.raises(AdapterError, match="lm_head"):
        probe(scorer, "a", ITEMS, SETTINGS)
    with pytest.raises(AdapterNotFoundError):
        probe(scorer, "b", ITEMS, SETTINGS)
    assert scorer.scored == []


def test_the_estimate_is_what_the_audit_does() -> None:
    """Tokens and decodes of the tiny engine, one byte a token: exact for all, near for the likely ones."""
    sets = {
        Group.CANDIDATES: as_set(ITEMS),
        Group.CONTROLS: as_set(tuple(phone(i, salt=3) for i in range(30))),
    }
    tokens = len(ITEMS[0].prefix) + len(ITEMS[0].target)
    for settings in (SETTINGS, replace(SETTINGS, checked_share=0.2)):
        scorer = CountingScorer({"a": memory_of(ITEMS[:20])})
        run_audit(scorer, "a", sets, settings)
        cost = estimate(sets, settings, FOUND)
        assert (cost.candidates, cost.controls, cost.left_out) == (200, 30, 0)
        assert cost.scored_tokens == 2 * 230 * tokens
        assert cost.decodes == pytest.approx(scorer.decoded, rel=0.15)
        assert cost.seconds == cost.scored_tokens / 100 + cost.decoded_tokens / 10


def test_the_estimate_of_a_budget_is_within_it() -> None:
    """In seconds of the measured engine, and in tokens."""
    sets = {Group.CANDIDATES: as_set(ITEMS)}
    costs = FOUND.costs(SETTINGS)
    budgeted = replace(SETTINGS, budget=Budget(100.0, costs))
    cost = estimate(sets, budgeted, FOUND)
    assert 90.0 < cost.seconds <= 100.0
    assert cost.candidates + cost.left_out == 200
    each = Costs(bytes_per_token=1.0).of(ITEMS[0])
    tokens = replace(SETTINGS, budget=Budget(50 * each, Costs(bytes_per_token=1.0)))
    found = estimate(sets, tokens, FOUND)
    assert found.scored_tokens + found.decoded_tokens <= 50 * each
    assert found.candidates == 49  # 37 by rank and 12 at random: neither part pays for half a candidate
