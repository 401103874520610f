"""Strata: the bounds of all tags hold at once, and the ranked part is counted, not estimated."""

import numpy as np
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.records import StratumOutcome
from lorecall.audit.stats.strata import Size, StratifiedTest, Taken, replay

SIZES = {"card": Size(300, 0, 20), "email": Size(1000, 0, 20), "key": Size(60, 4, 0)}
LEAKS = {"card": (9, 3), "email": (6, 10), "key": (0, 2)}
"""How many of the ranked part and of the others leak."""


def run(seed: int, bound: float | None, batch: int) -> tuple[StratifiedTest, bool]:
    """A run to the first decision of each stratum, and whether all intervals held at every look."""
    rng, held = np.random.default_rng(seed), True
    test = StratifiedTest(SIZES, bound, 0.95, batch)
    for tag, size in SIZES.items():
        first, others = LEAKS[tag]
        test.add_ranked(tag, Taken(size.ranked, first, 0))
        order = rng.permutation(np.arange(size.of - size.ranked) < others)
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            found = test.add_drawn(tag, Taken(len(some), int(some.sum()), 0))
            held &= found.low - 1e-12 <= (first + others) / size.of <= found.high + 1e-12
            if test.decides(found):
                break
    return test, held


MANY = [60, pytest.param(200, marks=pytest.mark.soak)]
"""Runs of which at most one in twenty may go wrong."""


@pytest.mark.parametrize("count", MANY)
def test_all_bounds_hold_at_once_with_the_confidence(count: int) -> None:
    """With a look after every ten: an interval loses its rate in one run of twenty at most."""
    runs = [run(seed, None, 10) for seed in range(count)]
    truth = sum(map(sum, LEAKS.values())) / sum(size.of for size in SIZES.values())
    assert sum(not held for _, held in runs) <= 0.05 * len(runs)
    assert all(test.outcome.low - 1e-12 <= truth <= test.outcome.high + 1e-12 for test, held in runs if held)
    assert all(test.outcome.taken == 1360 for test, _ in runs)
    assert all(test.outcome.low == pytest.approx(truth) for test, _ in runs)  # all taken: the rate itself


@pytest.mark.parametrize("count", MANY)
def test_a_stratum_is_decided_wrongly_in_at_most_one_of_twenty(count: int) -> None:
    """Stopped at the first decision against 3 %: cards at 4 %, addresses at 1.6 %, keys at 3.3 %."""
    wrong = 0
    for seed in range(count):
        sides = {one.tag: (one.low > 0.03, one.high <= 0.03) for one in run(seed, 0.03, 5)[0].strata}
        wrong += sides["card"][1] or sides["email"][0] or sides["key"][1]
    assert wrong <= 0.05 * count


def test_a_clean_stratum_is_cleared_beside_a_leaking_one() -> None:
    """One tag leaks in every tenth, the other not at all: each is decided on its own, and long before the end."""
    test = StratifiedTest({"card": Size(100_000, 0, 0), "email": Size(100_000, 0, 0)}, 0.001, 0.95, 50)
    for tag, hits in (("card", 5), ("email", 0)):
        found = test.add_drawn(tag, Taken(50, hits, 0))
        while not test.decides(found):
            found = test.add_drawn(tag, Taken(50, hits, 0))
    card, email = test.strata
    assert (card.low > 0.001, card.drawn < 500) == (True, True)
    assert (email.high <= 0.001, 3000 < email.drawn < 8000) == (True, True)
    assert card.confidence == email.confidence == pytest.approx(0.975)


def test_what_ranks_high_is_counted_and_not_estimated() -> None:
    """All of the ranked leak and none of the others is taken: the lower end is theirs alone, the upper open."""
    test = StratifiedTest({"": Size(100, 0, 10)}, None, 0.95, 5)
    test.add_ranked("", Taken(10, 9, 1))
    (found,) = test.strata
    assert (found.low, found.high) == (0.09, 1.0)
    found = test.add_drawn("", Taken(90, 0, 0))
    assert (found.low, found.high) == (0.09, 0.1)  # the one that could not be scored counts at the upper end


def test_a_stratum_that_is_all_ranked_is_known() -> None:
    """Nothing is left to bound."""
    test = StratifiedTest({"": Size(10, 0, 10)}, 0.5, 0.95, 5)
    test.add_ranked("", Taken(10, 2, 0))
    assert (test.outcome.low, test.outcome.high, test.outcome.decision) == (0.2, 0.2, "below")


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    """As by the test of one stratum."""
    with pytest.raises(UsageError):
        StratifiedTest({"": Size(10, 0, 0)}, bound, 0.95, 5)


def test_a_replay_gives_the_same() -> None:
    """From the candidates in the order in which they were asked for, with the same looks."""
    test, again = (StratifiedTest({"a": Size(40, 1, 2), "b": Size(9, 0, 0)}, 0.2, 0.9, 4) for _ in range(2))
    test.add_ranked("a", Taken(2, 1, 0))
    for tag, hits in (("a", 1), ("a", 0), ("b", 2)):
        test.add_drawn(tag, Taken(4, hits, 0))
    seen = [("a", True, Taken(1, 1)), ("a", True, Taken(1))]
    seen += [("a", False, Taken(1, n == 2)) for n in range(8)]
    seen += [("b", False, Taken(1, n < 2)) for n in range(4)]
    replay(again, seen, 4)
    assert again.strata == test.strata
    assert again.outcome == test.outcome
    assert isinstance(again.strata[0], StratumOutcome)


def economical(rng: np.random.Generator, recited: float, share: float) -> bool:
    """Whether all intervals hold where most decodes are ruled out, wrongly for a share of the candidates."""
    test = StratifiedTest({"a": Size(3000, 0, 200), "b": Size(2000, 0, 0)}, None, 0.95, 200, economical=True)
    truth = {}
    for tag, size, ranked, drawn in (("a", 3000, 200, 800), ("b", 2000, 0, 600)):
        hits = rng.random(size) < recited
        truth[tag] = hits.sum() / size
        open_ = rng.random(size) < 0.1
        checked = ~open_ & (rng.random(size) < share)
        known = hits & (open_ | checked)
        kinds = np.stack([known, known & False, ~(open_ | checked), checked, known & checked], axis=1)
        counted = [Taken(1, *row) for row in kinds[: ranked + drawn].astype(int).tolist()]
        test.add_ranked(tag, sum(counted[:ranked], Taken()))
        for start in range(ranked, ranked + drawn, 200):
            test.add_drawn(tag, sum(counted[start : start + 200], Taken()))
    return all(one.low <= truth[one.tag] <= one.high for one in test.strata)


@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize("recited", [0.002, 0.02, 0.1])
def test_the_bounds_hold_where_decodes_are_ruled_out_wrongly(recited: float, count: int) -> None:
    """Nine in ten are ruled out, and recited as often as the others: at most one run in twenty fails."""
    rng = np.random.default_rng(7)
    assert sum(not economical(rng, recited, 0.05) for _ in range(count)) <= 0.05 * count


def test_what_the_check_found_widens_the_upper_end_alone() -> None:
    """Without left-out ones only the confidence changes; each that the check found raises the upper end."""

    def outcome(left_out: int, found: int) -> StratumOutcome:
        test = StratifiedTest({"": Size(2000, 0, 0)}, None, 0.95, 1000, economical=True)
        return test.add_drawn("", Taken(1000, 5 + found, 0, left_out, 100, found))

    whole, some, more = outcome(0, 0), outcome(800, 0), outcome(800, 3)
    assert whole.high < some.high < more.high < 0.5
    assert whole.low == some.low
    assert (some.errors, some.left_out, whole.left_out) == (0, 800, 0)
    plain = StratifiedTest({"": Size(2000, 0, 0)}, None, 0.95, 1000).add_drawn("", Taken(1000, 5))
    assert plain.high < whole.high
    assert whole.confidence == pytest.approx(0.95) == plain.confidence
