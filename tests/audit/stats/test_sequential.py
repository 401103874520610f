"""The sequential audit: anytime-valid, exact at the end, and quicker where the answer is plain."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.estimates import Outcome
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import ExitCode, Policy, TagLimits
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.stats.sequential import SequentialTest
from lorecall.audit.verdicts import Group

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import TinyScorer

OPEN = Policy(max_certified=None, max_recalled=None, max_extractable=None, max_near_verbatim=None)


def follow(leaks: list[bool], bound: float, step: int) -> list[Outcome]:
    """Every outcome of a test that takes the snippets `step` at a time, to the end."""
    test = SequentialTest(len(leaks), bound, 0.95)
    return [
        test.count(len(leaks[at : at + step]), sum(leaks[at : at + step]))
        for at in range(0, len(leaks), step)
    ]


def test_a_clean_set_is_cleared_long_before_its_end() -> None:
    """No leak among a million: below 0.001 after some thousands."""
    test = SequentialTest(1_000_000, 0.001, 0.95)
    while not test.outcome.decided:
        test.count(50, 0)
    assert test.outcome.decision == "below"
    assert 3000 < test.outcome.taken < 6000


def test_a_leaking_set_is_found_out_at_once() -> None:
    """Every tenth leaks: above 0.001 within a few dozen."""
    test = SequentialTest(1_000_000, 0.001, 0.95)
    while not test.outcome.decided:
        test.count(10, 1)
    assert test.outcome.decision == "above"
    assert test.outcome.taken < 100


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 7))
@example([False] * 5 + [True] * 3, 1)
def test_at_the_end_only_the_truth_is_left(leaks: list[bool], step: int) -> None:
    """All taken: the interval is the rate itself. On the way it only narrows, or leaves where it was altogether.

    It leaves in unlucky orders, such as all leaks last: those that the confidence has room for.
    """
    outcomes = follow(leaks, 0.2, step)
    rate = sum(leaks) / len(leaks)
    assert outcomes[-1].low == rate == outcomes[-1].high
    for a, b in pairwise(outcomes):
        assert b.low <= b.high
        assert (a.low <= b.low and b.high <= a.high) or b.low > a.high or b.high < a.low


@pytest.mark.parametrize("runs", [100, pytest.param(400, marks=pytest.mark.soak)])
def test_the_truth_stays_inside_at_all_times_at_once(runs: int) -> None:
    """Over many random orders of one set, the interval loses the true rate in at most one of twenty."""
    rng, misses = random.Random(7), 0  # noqa: S311  not for secrets
    truth = 12 / 300
    for _ in range(runs):
        leaks = [True] * 12 + [False] * 288
        rng.shuffle(leaks)
        misses += any(not o.low - 1e-12 <= truth <= o.high + 1e-12 for o in follow(leaks, 0.04, 1))
    assert misses <= 0.05 * runs


@pytest.mark.parametrize("leaks", [12, 15])
def test_a_decision_is_wrong_in_at_most_one_of_twenty(leaks: int) -> None:
    """Of 300, at or just over a bound of 4.5 %: stopped at the first decision, over many random orders.

    13.5 leaks would be at the bound: 12 lie below it, 15 above.
    """
    rng, runs, wrong = random.Random(23), 400, 0  # noqa: S311  not for secrets
    right = "below" if leaks < 13.5 else "above"
    for _ in range(runs):
        order = [True] * leaks + [False] * (300 - leaks)
        rng.shuffle(order)
        decisions = (outcome.decision for outcome in follow(order, 0.045, 5))
        wrong += next(decision for decision in decisions if decision != "open") != right
    assert wrong <= 0.05 * runs


def test_what_could_not_be_scored_neither_clears_nor_convicts() -> None:
    """Errors alone leave it open to the end; beside leaks they hide none; few of them hide no clean set."""
    errors = SequentialTest(100, 0.05, 0.95)
    assert errors.count(100, 0, 100).decision == "open"
    assert (errors.outcome.low, errors.outcome.high, errors.outcome.hits) == (0.0, 1.0, 0)
    assert SequentialTest(100, 0.05, 0.95).count(100, 20, 50).decision == "above"
    assert SequentialTest(100, 0.05, 0.95).count(100, 0, 3).decision == "below"


def test_an_audit_of_unscorable_candidates_is_incomplete_not_leaking() -> None:
    """Exit code 3 with no leak in its reasons, however many could not be scored."""
    long = tuple(ScoreItem(f"long{i}", "a ", "x" * 1000) for i in range(20))
    scorer = TinyScorer({"a": memory_of(())})
    result = run_audit(scorer, "a", {Group.CANDIDATES: as_set(long)}, AuditSettings(until_bound=0.1))
    gate = judge_result(result, OPEN)
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert any("20 snippets could not be scored" in reason for reason in gate.reasons)


def test_an_early_stop_clears_no_limit_on_a_count() -> None:
    """Below the bound after a part of the set: incomplete where no certified candidate is allowed."""
    items = tuple(phone(i) for i in range(200))
    scorer = TinyScorer({"a": memory_of(())})
    result = run_audit(
        scorer, "a", {Group.CANDIDATES: as_set(items)}, AuditSettings(until_bound=0.05, chunk=10)
    )
    assert result.sequential is not None
    assert (result.sequential.decision, result.sequential.taken < 200) == ("below", True)
    gate = judge_result(result, Policy())
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert "of 200 candidates were asked for, which clears no limit on a count" in gate.reasons[0]
    assert judge_result(result, OPEN.model_copy(update={"max_rate": 0.05})).passed
    stricter = judge_result(result, OPEN.model_copy(update={"max_rate": 0.001}))
    assert stricter.exit_code is ExitCode.INCOMPLETE, (
        "the bound that it stopped at replaces no stricter limit"
    )


@pytest.mark.parametrize(("bound", "confidence"), [(0.0, 0.95), (1.0, 0.95), (0.1, 0.0), (0.1, 1.0)])
def test_bounds_and_confidences_that_are_none_are_refused(bound: float, confidence: float) -> None:
    """Both lie within (0, 1)."""
    with pytest.raises(UsageError):
        SequentialTest(10, bound, confidence)


def test_an_audit_stops_when_it_knows() -> None:
    """A leaking adapter is found out after the first chunk, and the report says how many it took of how many."""
    items = tuple(phone(i) for i in range(200))
    scorer = TinyScorer({"a": memory_of(items), "b": memory_of(())})
    settings = AuditSettings(until_bound=0.05, chunk=10)
    leaking = run_audit(scorer, "a", {Group.CANDIDATES: as_set(items)}, settings)
    assert leaking.sequential is not None
    assert (leaking.sequential.decision, leaking.sequential.of) == ("above", 200)
    assert leaking.sequential.taken == len(leaking.snippets) < 40
    assert judge_result(leaking, OPEN).exit_code is ExitCode.LEAKS
    clean = run_audit(scorer, "b", {Group.CANDIDATES: as_set(items)}, settings)
    assert clean.sequential is not None
    assert clean.sequential.decision == "below"
    assert len(clean.snippets) < 200
    assert judge_result(clean, OPEN).exit_code is ExitCode.CLEAN


def test_the_order_is_random_and_seeded() -> None:
    """The first snippets are not the file's first ones, and the same seed takes the same ones."""
    items = tuple(phone(i) for i in range(100))
    scorer = TinyScorer({"a": memory_of(())})
    taken = [
        [s.item.id for s in run_audit(scorer, "a", {Group.CANDIDATES: as_set(items)}, settings).snippets]
        for settings in (AuditSettings(until_bound=0.2, seed=s, chunk=5) for s in (1, 1, 2))
    ]
    assert taken[0] == taken[1] != taken[2]
    assert taken[0] != [item.id for item in items[: len(taken[0])]]


def test_an_early_stop_clears_no_rate_of_a_tag() -> None:
    """The bound on a tag's rate holds for a number of candidates that is fixed before; asked of all, it is."""
    items = tuple(replace(phone(i, salt=5), tags=("pii",)) for i in range(60))
    scorer, sets = TinyScorer({"a": memory_of(())}), {Group.CANDIDATES: as_set(items)}
    policy = OPEN.model_copy(update={"by_tag": (TagLimits(tags=("pii",), max_rate=0.5),)})
    early = run_audit(scorer, "a", sets, AuditSettings(until_bound=0.2, chunk=10))
    assert early.sequential is not None
    assert early.sequential.taken < early.sequential.of
    gate = judge_result(early, policy)
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert gate.reasons[0].endswith("clears no limit on the rate of a tag")
    assert judge_result(early, OPEN).passed
    assert judge_result(run_audit(scorer, "a", sets, AuditSettings()), policy).passed
