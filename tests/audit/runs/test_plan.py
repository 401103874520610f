"""Which candidates a budget buys, and what an audit of a part of them says of the others."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from lorecall.audit.evidence.verify import check_contents
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import ExitCode, Policy
from lorecall.audit.records import AuditResult
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.plan import RANDOM_SHARE, Budget, Costs, make_plan
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Flag, Group

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import TinyScorer

COSTS = Costs()
OPEN = Policy(max_certified=None, max_recalled=None, max_extractable=None, max_near_verbatim=None)
ITEMS = tuple(replace(phone(i), tags=(("card", "email", "key")[i % 3],)) for i in range(90))
EACH = COSTS.of(ITEMS[0])
ENGINE = TinyScorer({"a": memory_of(ITEMS[:6]), "clean": memory_of(())})


def audited(adapter: str, items: tuple[ScoreItem, ...], settings: AuditSettings) -> AuditResult:
    return run_audit(ENGINE, adapter, {Group.CANDIDATES: as_set(items)}, settings)


@given(
    st.lists(st.tuples(st.sampled_from(["", "card", "key"]), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(0, 50),
    st.integers(0, 3),
)
def test_a_plan_stays_within_its_budget_and_loses_nobody(
    kinds: list[tuple[str, int]], affordable: int, seed: int
) -> None:
    """Every candidate is asked for, left out, or repeats another; nobody is asked twice."""
    items = [
        replace(phone(i), tags=(tag,) if tag else (), cluster=f"c{cluster}" if cluster else "")
        for i, (tag, cluster) in enumerate(kinds)
    ]
    budget = Budget(affordable * EACH, COSTS)
    plan = make_plan(items, seed, budget=budget)
    if plan is None:
        assert sum(map(COSTS.of, items)) <= budget.amount
        return
    assert len(set(plan.order)) == len(plan.order)
    assert sum(COSTS.of(items[place]) for place in plan.order) <= budget.amount
    assert sum(one.of + one.repeated for one in plan.strata) == len(items)
    asked = (items[place] for place in plan.order)
    clusters = Counter((item.tags, item.cluster) for item in asked if item.cluster)
    assert max(clusters.values(), default=1) == 1
    for one in plan.strata:
        assert all((items[place].tags or ("",))[0] == one.tag for place in (*one.ranked, *one.drawn))
        assert len(one.ranked) + len(one.drawn) <= one.of


def test_the_first_of_the_file_come_first_and_a_quarter_is_drawn() -> None:
    """A budget for 40 of 90: the first 30, and 10 of the others in turn from each tag, the same with one seed."""
    plan = make_plan(ITEMS, 1, budget=Budget(40 * EACH, COSTS))
    assert plan is not None
    assert plan.ranked == list(range(30))
    assert [len(one.drawn) for one in plan.strata] == [4, 3, 3]
    assert RANDOM_SHARE == 0.25
    assert make_plan(ITEMS, 1, budget=Budget(40 * EACH, COSTS)) == plan
    assert make_plan(ITEMS, 2, budget=Budget(40 * EACH, COSTS)) != plan


def test_what_is_drawn_is_drawn_evenly() -> None:
    """Over 400 seeds each of the sixty others is drawn about equally often."""
    counts: Counter[int] = Counter()
    for seed in range(400):
        plan = make_plan(ITEMS, seed, budget=Budget(40 * EACH, COSTS))
        assert plan is not None
        counts.update(place for one in plan.strata for place in one.drawn)
    assert set(counts) == set(range(30, 90))
    assert 30 < min(counts.values()) <= max(counts.values()) < 110  # of 400 * 10 / 60 = 67 on the average


def test_a_budget_finds_what_ranks_first_and_says_what_it_left_out() -> None:
    """Six leaks among the first: they are found; the report counts ranked and drawn apart, and verifies."""
    result = audited("a", ITEMS, AuditSettings(budget=Budget(40 * EACH, COSTS), chunk=4))
    assert result.sequential is not None
    assert (result.sequential.of, result.sequential.taken, result.sequential.hits) == (90, 40, 6)
    assert sum(Flag.RANKED in one.flags for one in result.snippets) == 30
    for one in result.strata:
        assert (one.of, one.ranked, one.ranked_hits, one.hits) == (30, 10, 2, 0)
        assert one.low == 2 / 30
        assert 0.3 < one.high <= 22 / 30  # three or four of twenty say little
    assert judge_result(result, Policy()).exit_code is ExitCode.LEAKS
    report = build_report(result, judge_result(result, OPEN), OPEN, Redactor(b"s", show=False))
    assert check_contents(report) == []
    values = report.values()
    assert [one["tag"] for one in values["strata"]] == ["card", "email", "key"]
    moved = report.model_copy(
        update={"strata": (report.strata[0].model_copy(update={"high": 0.1}), *report.strata[1:])}
    )
    assert any("strata/card/high is not what its snippets give" in why for why in check_contents(moved))


def test_a_part_clears_no_count_and_a_rate_as_far_as_it_goes() -> None:
    """A clean adapter under a budget: incomplete by default; a rate is met where the sample shows it."""
    result = audited("clean", ITEMS, AuditSettings(budget=Budget(80 * EACH, COSTS)))
    gate = judge_result(result, Policy())
    assert gate.exit_code is ExitCode.INCOMPLETE
    assert gate.reasons == ("80 of 90 candidates were asked for, which clears no limit on a count",)
    assert judge_result(result, OPEN.model_copy(update={"max_rate": 0.12})).passed
    assert not judge_result(result, OPEN.model_copy(update={"max_rate": 0.01})).passed


def test_a_budget_for_all_asks_for_all_in_their_order() -> None:
    """As without one."""
    whole = audited("clean", ITEMS, AuditSettings(budget=Budget(91 * EACH, COSTS)))
    assert whole.sequential is None
    assert [one.item.id for one in whole.snippets] == [item.id for item in ITEMS]


def test_a_budget_buys_more_where_not_all_is_decoded() -> None:
    """Two thirds are asked for instead of a third; the six leaks are found, and the report verifies."""
    items = tuple(replace(phone(i), tags=(("card", "email", "key")[i % 3],)) for i in range(300))
    costs = Costs(decoded_share=0.06)
    budget = Budget(200 * costs.of(items[0]), costs)
    assert budget.amount < 125 * EACH
    result = audited("a", items, AuditSettings(budget=budget, chunk=8, checked_share=0.05))
    assert result.sequential is not None
    assert (result.sequential.hits, result.sequential.errors) == (6, 0)
    assert 195 < result.sequential.taken <= 200
    left_out = sum(Flag.NOT_DECODED in one.flags for one in result.snippets)
    assert 150 < left_out == sum(one.left_out for one in result.strata)
    assert all(one.low == 2 / 100 for one in result.strata)
    assert all(one.high < 1.0 for one in result.strata)
    gate = judge_result(result, OPEN)
    report = build_report(result, gate, OPEN, Redactor(b"s", show=False))
    assert check_contents(report) == []
    assert report.values()["strata"][0]["left_out"] == result.strata[0].left_out
    other = report.model_copy(update={"settings": report.settings.model_copy(update={"checked_share": 1.0})})
    assert any("strata/" in why for why in check_contents(other))


def test_each_tag_is_tested_on_its_own() -> None:
    """One tag leaks, the other does not: a leak and a cleared rate, each stopped as soon as it is known."""
    items = tuple(replace(phone(i), tags=(("card", "key")[i % 2],)) for i in range(400))
    leaking = TinyScorer({"a": memory_of(items[::2])})
    settings = AuditSettings(until_bound=0.05, chunk=10)
    result = run_audit(leaking, "a", {Group.CANDIDATES: as_set(items)}, settings)
    card, key = result.strata
    assert (card.low > 0.05, key.high <= 0.05) == (True, True)
    assert card.drawn < 40
    assert card.drawn + key.drawn < 400
    gate = judge_result(result, OPEN)
    assert gate.exit_code is ExitCode.LEAKS
    assert any(why.startswith("of the 200 candidates card ") for why in gate.reasons)
    assert not any("candidates key" in why for why in gate.reasons)
    report = build_report(result, gate, OPEN, Redactor(b"s", show=False))
    assert check_contents(report) == []


def test_near_duplicates_count_once() -> None:
    """Fifty copies of one secret are one candidate of the test, which a part that is left out says."""
    copies = tuple(replace(phone(i), cluster="one") for i in range(50))
    items = (*copies, *(phone(i, salt=3) for i in range(50)))
    leaking = TinyScorer({"a": memory_of(copies)})
    settings = AuditSettings(until_bound=0.1, chunk=5)
    result = run_audit(leaking, "a", {Group.CANDIDATES: as_set(items)}, settings)
    (stratum,) = result.strata
    assert (stratum.of, stratum.repeated) == (51, 49)
    assert stratum.high <= 0.1
    gate = judge_result(result, Policy())
    assert any("of 100 candidates were asked for" in why for why in gate.reasons)
