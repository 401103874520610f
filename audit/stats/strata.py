"""The sequential test stratum by stratum, so that each tag has a bound of its own.

The candidates that rank highest are asked for first, in that order. A ranked order is no random one, so nothing
about the others follows from them; they are counted as they are: of this part the number of leaks is known. The
others of a stratum are drawn at random, and the confidence sequence of `SequentialTest` bounds the leaks among
all of them, however many were asked for and whenever one stops. Both together bound the stratum's rate.

With S strata each interval has the confidence 1 - (1 - confidence) / S, so all hold together with the confidence
(Bonferroni), and so does their weighted sum, the rate over all strata.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lorecall.audit.records import Outcome, StratumOutcome, decide
from lorecall.audit.stats.sequential import SequentialTest


@dataclass(frozen=True, slots=True)
class Size:
    """How large a stratum is.

    Attributes:
        of: Candidates, one of each cluster of near-duplicates.
        repeated: The others of the clusters.
        ranked: Those asked for because they rank high.
    """

    of: int
    repeated: int
    ranked: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What was found among some candidates that were asked for."""

    taken: int
    hits: int
    errors: int


class StratifiedTest:
    """Decides for each stratum whether its leak rate is below or above a bound.

    Args:
        sizes: The strata by their tags.
        bound: The bound; None for none, where only the intervals are wanted.
        confidence: Of all intervals together, in (0, 1).
        batch: Candidates of a stratum between two looks.

    Raises:
        UsageError: The bound or the confidence is not within (0, 1).
    """

    def __init__(self, sizes: Mapping[str, Size], bound: float | None, confidence: float, batch: int) -> None:
        self._bound, self._confidence, self._batch = bound, confidence, batch
        self._sizes = dict(sizes)
        self._ranked = dict.fromkeys(sizes, Taken(0, 0, 0))
        each = 1.0 - (1.0 - confidence) / max(1, len(sizes))
        self._tests = {
            tag: SequentialTest(size.of - size.ranked, bound, each, batch) for tag, size in sizes.items()
        }

    def add_ranked(self, tag: str, found: Taken) -> None:
        """Count candidates of a stratum that were asked for because they rank high."""
        old = self._ranked[tag]
        self._ranked[tag] = Taken(old.taken + found.taken, old.hits + found.hits, old.errors + found.errors)

    def add_drawn(self, tag: str, found: Taken) -> StratumOutcome:
        """Count the next candidates of a stratum's random order."""
        self._tests[tag].count(found.taken, found.hits, found.errors)
        return self._stratum(tag)

    def decides(self, found: StratumOutcome) -> bool:
        """Return whether a stratum's rate is known to lie on one side of the bound."""
        return decide(found.low, found.high, self._bound) != "open"

    @property
    def strata(self) -> tuple[StratumOutcome, ...]:
        """What is known of each stratum."""
        return tuple(map(self._stratum, self._sizes))

    @property
    def outcome(self) -> Outcome:
        """What is known over all strata."""
        strata = self.strata
        of = sum(one.of for one in strata)
        return Outcome(
            bound=self._bound,
            confidence=self._confidence,
            of=of,
            taken=sum(one.ranked + one.drawn for one in strata),
            hits=sum(one.ranked_hits + one.hits for one in strata),
            low=sum(one.low * one.of for one in strata) / of if of else 0.0,
            high=min(1.0, sum(one.high * one.of for one in strata) / of) if of else 1.0,
            errors=sum(one.ranked_errors + one.errors for one in strata),
            batch=self._batch,
        )

    def _stratum(self, tag: str) -> StratumOutcome:
        size, ranked, drawn = self._sizes[tag], self._ranked[tag], self._tests[tag].outcome
        of, high = max(1, size.of), drawn.high if drawn.of else 0.0
        return StratumOutcome(
            tag=tag,
            of=size.of,
            repeated=size.repeated,
            ranked=ranked.taken,
            ranked_hits=ranked.hits,
            ranked_errors=ranked.errors,
            drawn=drawn.taken,
            hits=drawn.hits,
            errors=drawn.errors,
            low=min(1.0, (ranked.hits + drawn.low * drawn.of) / of),
            high=min(1.0, (ranked.hits + ranked.errors + high * drawn.of) / of),
            confidence=drawn.confidence,
        )


def stratum_of(tags: Sequence[str]) -> str:
    """Return the stratum of a candidate with these tags: the first of them."""
    return tags[0] if tags else ""


def replay(test: StratifiedTest, seen: Iterable[tuple[str, bool, bool, bool]], batch: int) -> None:
    """Count candidates in the order in which they were asked for, with the looks of a run in such batches.

    Args:
        test: The test.
        seen: Of each candidate its stratum, whether it ranked high, was recited, and could not be scored.
        batch: Candidates of a stratum between two looks.
    """
    drawn: dict[str, list[tuple[bool, bool]]] = {}
    for tag, ranked, hit, error in seen:
        if ranked:
            test.add_ranked(tag, Taken(1, hit, error))
        else:
            drawn.setdefault(tag, []).append((hit, error))
    for tag, found in drawn.items():
        for start in range(0, len(found), batch):
            some = found[start : start + batch]
            hits, errors = (sum(values) for values in zip(*some, strict=True))
            test.add_drawn(tag, Taken(len(some), hits, errors))
