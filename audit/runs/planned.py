"""Ask for candidates as a plan says: the ranked ones, then each stratum's others until its rate is decided."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace

from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.journal import Judges
from lorecall.audit.records import SnippetResult
from lorecall.audit.runs.plan import Chosen, Plan
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.batches import batches
from lorecall.audit.stats.strata import Size, StratifiedTest, Taken, stratum_of, taken_of
from lorecall.audit.verdicts import Flag, Group


def stratified(
    plan: Plan, bound: float | None, confidence: float, batch: int, *, economical: bool
) -> StratifiedTest:
    """Return the test of a plan's strata, of which nothing was asked for yet.

    Args:
        plan: The plan.
        bound: Of the leak rate; None where only the intervals are wanted.
        confidence: Of all intervals together.
        batch: Candidates of a stratum between two looks.
        economical: Whether some of those asked for may be left undecoded.
    """
    sizes = {one.tag: Size(one.of, one.repeated, len(one.ranked)) for one in plan.strata}
    return StratifiedTest(sizes, bound, confidence, batch, economical=economical)


def ask_planned(
    judges: Judges,
    items: Sequence[ScoreItem],
    plan: Plan,
    test: StratifiedTest,
    batch: int,
    seen: Callable[[list[SnippetResult]], None],
) -> None:
    """Ask for the candidates of a plan, and tell the test.

    Args:
        judges: Judge them.
        items: The set that the plan is of.
        plan: The plan.
        test: Its test; a stratum whose rate is decided is not asked for any further.
        batch: Candidates in one go.
        seen: Called with each batch's results.

    Raises:
        ScorerError: The engine could not be reached.
    """
    for chunk in batches(Chosen(items, plan.ranked), batch):
        results = mark_ranked(judges.judge(Group.CANDIDATES, chunk), {item.id for item in chunk})
        for result in results:
            test.add_ranked(stratum_of(result.item.tags), _taken([result]))
        seen(results)
    for stratum in plan.strata:
        for chunk in batches(Chosen(items, stratum.drawn), batch):
            results = judges.judge(Group.CANDIDATES, chunk)
            found = test.add_drawn(stratum.tag, _taken(results))
            seen(results)
            if test.decides(found):
                break


def ranked_ids(sets: Mapping[Group, CandidateSet], plan: Plan | None) -> frozenset[str]:
    """Return the ids of the candidates that are asked for because they rank high; none without a plan."""
    places = () if plan is None else plan.ranked
    return frozenset(item.id for item in Chosen(sets[Group.CANDIDATES].items, places))


def mark_ranked(results: Sequence[SnippetResult], ranked: Container[str]) -> list[SnippetResult]:
    """Return the results; those with an id among the ranked ones say by a flag why they were asked for."""
    return [
        replace(one, flags=(*one.flags, Flag.RANKED))
        if one.group is Group.CANDIDATES and one.item.id in ranked
        else one
        for one in results
    ]


def _taken(results: Sequence[SnippetResult]) -> Taken:
    return sum((taken_of(result.verdict, result.flags) for result in results), Taken())
