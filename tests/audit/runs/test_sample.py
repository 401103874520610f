"""Drawn answers beside what was predicted of them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.coarse import coarse_count
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import AuditResult, Drawn, SnippetResult
from lorecall.audit.reports.build import build_report, snippet_entry
from lorecall.audit.reports.html import drawn_words
from lorecall.audit.reports.redact import redactor
from lorecall.audit.runs.sample import prediction_interval, seed_of
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set, phone
from tests.audit.judging.test_extractable import ITEM, Torn
from tests.audit.tiny_scorer import TinyScorer
from tests.audit.tiny_server import serve

ANSWERS = 150


def drawn(engine: TinyScorer, wish: SamplingWish, seed: int = 0) -> AuditResult:
    settings = AuditSettings(extraction=wish, answers=ANSWERS, seed=seed, confidence=0.999)
    sets = {Group.CANDIDATES: as_set((ITEM, phone(5)))}
    return run_audit(engine, "a", sets, settings)


@pytest.mark.parametrize("wish", [SamplingWish(), SamplingWish(temperature=0.8, top_k=3, top_p=0.97)])
def test_a_text_comes_out_as_often_as_predicted(wish: SamplingWish) -> None:
    """The count is within its interval; what is expected too rarely is not drawn."""
    result = drawn(Torn(0.2), wish)
    found, never = (snippet.drawn for snippet in result.snippets)
    assert never is None
    assert found is not None
    assert found.interval is not None
    assert 5 < found.interval[0] <= found.seen <= found.interval[1] < ANSWERS
    assert found.seen_as_text == found.seen
    again = drawn(Torn(0.2), wish).snippets[0].drawn
    assert again == found


def test_a_wrong_prediction_shows() -> None:
    """Draws of another model than the one that was scored lie outside the interval, and the report counts it."""

    class Lying(Torn):
        def draw(self, *args: object) -> object:  # type: ignore[override]
            return super().draw("other", *args[1:])  # type: ignore[arg-type]

    engine = Lying(0.2)
    engine.adapters["other"] = engine.base
    result = drawn(engine, SamplingWish())
    report = build_report(result, judge_result(result, Policy()), Policy(), redactor(show=False))
    assert "0 gave the target" in drawn_words(report)
    assert "1 of 1 counts lie outside" in drawn_words(report)


def test_a_redacted_report_predicts_in_two_digits() -> None:
    """The count that 1,000 answers should give would tell a probability to the fifth digit."""
    drawn = Drawn(1000, 440, 441, 437.25, (406, 468))
    snippet = replace(drawn_once(), drawn=drawn)
    hidden, shown = (snippet_entry(snippet, redactor(show=show)).values()["drawn"] for show in (False, True))
    assert (hidden["expected"], hidden["interval"], hidden["seen"]) == (440.0, [400, 470], 440)
    assert (shown["expected"], shown["interval"]) == (437.25, [406, 468])
    assert [coarse_count(n, up=up) for n in (7, 42, 99.5) for up in (False, True)] == [7, 7, 42, 42, 99, 100]


def drawn_once() -> SnippetResult:
    return drawn(Torn(0.2), SamplingWish()).snippets[0]


def test_answers_over_http_are_those_in_memory() -> None:
    """In requests of a batch each, with seeds that go on: the same answers."""
    engine = Torn(0.2)
    wish = SamplingWish(temperature=0.8, top_k=3)
    with serve(engine) as url, HttpScorer(url, batch=64) as scorer:
        over_http = run_audit(
            scorer,
            "a",
            {Group.CANDIDATES: as_set((ITEM,))},
            AuditSettings(extraction=wish, answers=ANSWERS, confidence=0.999),
        )
    assert over_http.snippets[0].drawn == drawn(engine, wish).snippets[0].drawn
    assert over_http.snippets[0].verdict is Verdict.EXTRACTABLE


def test_drawing_needs_something_to_draw() -> None:
    """Temperature 0, and an engine that only decodes greedily."""

    class Greedy(Torn):
        draw = None  # type: ignore[assignment]

    with pytest.raises(UsageError, match="temperature 0"):
        drawn(Torn(0.2), SamplingWish(temperature=0.0))
    with pytest.raises(UsageError, match="cannot draw"):
        drawn(Greedy(0.2), SamplingWish())


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_prediction_interval_covers(confidence: float) -> None:
    """4,000 simulated counts at each of several p: at least the stated share lies inside, and not all of it."""
    rng = np.random.default_rng(3)
    for p in (0.002, 0.05, 0.3, 0.97):
        low, high = prediction_interval(p, 100, confidence)
        counts = rng.binomial(100, p, 4_000)
        inside = float(((counts >= low) & (counts <= high)).mean())
        slack = 4.0 * (confidence * (1 - confidence) / 4_000) ** 0.5
        assert inside >= confidence - slack
        if 5 < 100 * p < 95:
            assert inside < (1 + confidence) / 2 + slack
    assert prediction_interval(0.0, 100, 0.95) == (0, 0)
    assert prediction_interval(1.0, 100, 0.95) == (100, 100)


def test_seeds_of_two_snippets_have_nothing_in_common() -> None:
    """Further answers take the next seeds, so those of two snippets lie far apart."""
    seeds = sorted(seed_of(0, number) for number in range(2_000))
    assert min(b - a for a, b in pairwise(seeds)) > 10_000
