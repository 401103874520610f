"""Which candidates are asked for where not all are: the highest-ranked, then others at random, by stratum."""

import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.batches import shuffled
from lorecall.audit.stats.strata import stratum_of
from lorecall.audit.verdicts import Group

RANDOM_SHARE = 0.25
"""Share of a budget that is spent on a random sample of what does not rank high enough."""

BYTES_PER_TOKEN = 4.0
"""By which tokens are estimated where nobody has counted them."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a candidate costs, in tokens or in seconds.

    Attributes:
        scored: Of one token that is scored.
        decoded: Of one token that is decoded.
        bytes_per_token: Bytes of text in a token.
        views: Ways in which each is asked for.
        answer_tokens: Tokens decoded beyond the target's length.
        decoded_share: Share of the candidates that are decoded; all controls are.
    """

    scored: float = 1.0
    decoded: float = 1.0
    bytes_per_token: float = BYTES_PER_TOKEN
    views: int = 1
    answer_tokens: int = 16
    decoded_share: float = 1.0

    def scored_tokens(self, item: ScoreItem) -> float:
        """Return about how many tokens are scored for a candidate: through the adapter and through the base."""
        return 2.0 * self.views * sum(map(_size, item.texts)) / self.bytes_per_token

    def decoded_tokens(self, item: ScoreItem) -> float:
        """Return about how many tokens are decoded for it, if it is decoded."""
        return self.views * (_size(item.target) / self.bytes_per_token + self.answer_tokens)

    def of(self, item: ScoreItem) -> float:
        """Return what it costs to score it, and to decode it if it is decoded."""
        decoded = self.decoded_share * self.decoded_tokens(item)
        return self.scored * self.scored_tokens(item) + self.decoded * decoded


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent.

    Attributes:
        amount: Tokens, or seconds.
        costs: What they cost, in the same.
    """

    amount: float
    costs: Costs


def others_of(sets: Mapping[Group, CandidateSet]) -> Iterator[ScoreItem]:
    """Yield what is asked for beside the candidates, whatever the budget: the controls."""
    return (item for group, one in sets.items() if group is not Group.CANDIDATES for item in one.items)


def cost_of_others(sets: Mapping[Group, CandidateSet], costs: Costs) -> float:
    """Return what that costs."""
    return sum(map(replace(costs, decoded_share=1.0).of, others_of(sets)))


def check_budget(sets: Mapping[Group, CandidateSet], budget: Budget, unit: str) -> None:
    """Check that a budget leaves something for the candidates.

    Args:
        sets: The candidates, and the controls if there are any.
        budget: The budget.
        unit: What it is of, in words.

    Raises:
        UsageError: The controls alone take as much.
    """
    others = cost_of_others(sets, budget.costs)
    if others >= budget.amount:
        raise UsageError(
            f"the budget does not pay for the controls, which take {others:.0f} {unit}",
            hint="give more, or fewer controls",
            param="budget",
        )


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


@dataclass(frozen=True, slots=True)
class Stratum:
    """The candidates whose first tag is the same.

    Attributes:
        tag: That tag, "" for those without one.
        of: Candidates. Of a cluster of near-duplicates only the one that ranks first counts.
        repeated: The others of the clusters, which are not asked for.
        ranked: Places of those asked for because they rank high, in their order.
        drawn: Places of others, in random order: as many as may be asked for.
    """

    tag: str
    of: int
    repeated: int
    ranked: Sequence[int]
    drawn: Sequence[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """The strata of an audit that does not ask for every candidate."""

    strata: tuple[Stratum, ...]

    @property
    def ranked(self) -> list[int]:
        """The places of those that rank high enough, in the order of the file, which is that of their rank."""
        return sorted(place for stratum in self.strata for place in stratum.ranked)

    @property
    def order(self) -> list[int]:
        """The places of all that may be asked for: the ranked ones, then stratum by stratum those drawn."""
        return [*self.ranked, *(place for stratum in self.strata for place in stratum.drawn)]


class Chosen(Sequence[ScoreItem]):
    """Some of a set's items, in an order of their own; they stay where they are.

    Args:
        items: The set.
        places: The places of those chosen.
    """

    def __init__(self, items: Sequence[ScoreItem], places: Sequence[int]) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ScoreItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[ScoreItem]: ...

    def __getitem__(self, index: int | slice) -> ScoreItem | list[ScoreItem]:
        if isinstance(index, slice):
            return [self._items[place] for place in self._places[index]]
        return self._items[self._places[index]]


def asked_of(sets: Mapping[Group, CandidateSet], plan: Plan | None) -> dict[Group, Sequence[ScoreItem]]:
    """Return what may be asked for of each set, in the order in which it is."""
    found: dict[Group, Sequence[ScoreItem]] = {group: one.items for group, one in sets.items()}
    if plan is not None:
        found[Group.CANDIDATES] = Chosen(sets[Group.CANDIDATES].items, plan.order)
    return found


def make_plan(
    items: Sequence[ScoreItem], seed: int, *, budget: Budget | None = None, sequential: bool = False
) -> Plan | None:
    """Return which candidates may be asked for; None where that is all of them, in their order.

    With a budget, most of it goes to the first of the file, which ranks its candidates, whatever their strata;
    the rest to a random sample, one of each stratum in turn. Without one a sequential test may take all.

    Args:
        items: The candidates, in the order of their rank.
        seed: Of the random orders.
        budget: How much may be spent; None for any amount.
        sequential: Whether a sequential test decides how many of those drawn are asked for.
    """
    if budget is not None and sum(map(budget.costs.of, items)) <= budget.amount:
        budget = None
    if budget is None and not sequential:
        return None
    places: dict[str, array[int]] = {}
    repeated: dict[str, int] = {}
    for tag, place in _first_of_clusters(items, repeated):
        places.setdefault(tag, array("q")).append(place)
    ranked = set() if budget is None else _ranked(items, places, budget)
    rest = {
        tag: _mixed([place for place in found if place not in ranked], seed, tag)
        for tag, found in sorted(places.items())
    }
    drawn = rest if budget is None else _drawn(items, rest, budget)
    return Plan(
        tuple(
            Stratum(
                tag,
                len(found),
                repeated.get(tag, 0),
                [place for place in found if place in ranked],
                drawn[tag],
            )
            for tag, found in sorted(places.items())
        )
    )


def _first_of_clusters(items: Sequence[ScoreItem], repeated: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Yield stratum and place of the first of each cluster in it; the others are counted in `repeated`."""
    seen: set[tuple[str, str]] = set()
    for place, item in enumerate(items):
        tag = stratum_of(item.tags)
        if item.cluster and (tag, item.cluster) in seen:
            repeated[tag] = repeated.get(tag, 0) + 1
            continue
        seen.add((tag, item.cluster))
        yield tag, place


def _ranked(items: Sequence[ScoreItem], places: dict[str, "array[int]"], budget: Budget) -> set[int]:
    """Return the places of the first that the budget's larger part pays for."""
    found: set[int] = set()
    left = budget.amount * (1.0 - RANDOM_SHARE)
    for place in sorted(place for some in places.values() for place in some):
        left -= budget.costs.of(items[place])
        if left < 0.0:
            break
        found.add(place)
    return found


def _mixed(places: Sequence[int], seed: int, tag: str) -> list[int]:
    own = random.Random(f"{seed}/{tag}").getrandbits(64)  # noqa: S311  not for secrets
    return [places[at] for at in shuffled(len(places), own)]


def _drawn(items: Sequence[ScoreItem], rest: dict[str, list[int]], budget: Budget) -> dict[str, list[int]]:
    """Return the first of each stratum's random order that the budget's smaller part pays for, in turn."""
    found: dict[str, list[int]] = {tag: [] for tag in rest}
    left = budget.amount * RANDOM_SHARE
    turns = {tag: iter(order) for tag, order in rest.items()}
    while turns:
        for tag in list(turns):
            place = next(turns[tag], None)
            if place is None:
                del turns[tag]
                continue
            left -= budget.costs.of(items[place])
            if left < 0.0:
                return found
            found[tag].append(place)
    return found
