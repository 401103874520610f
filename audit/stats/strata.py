"""The sequential test stratum by stratum, so that each tag has a bound of its own.

The candidates that rank highest are asked for first, in that order. A ranked order is no random one, so nothing
about the others follows from them; they are counted as they are: of this part the number of leaks is known. The
others of a stratum are drawn at random, and the confidence sequence of `SequentialTest` bounds the leaks among
all of them, however many were asked for and whenever one stops. Both together bound the stratum's rate.

With S strata each interval has the confidence 1 - (1 - confidence) / S, so all hold together with the confidence
(Bonferroni), and so does their weighted sum, the rate over all strata.

Where not every candidate that is asked for is decoded, the check of that (`stats/decoding_check.py`) bounds how
many of those left out are recited, in all strata together. It takes half of the error, the intervals the other
half. Each stratum's upper end counts as many of its own that were left out as recited as the check allows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from lorecall.audit.estimates import Outcome, decide
from lorecall.audit.records import StratumOutcome
from lorecall.audit.stats.decoding_check import undecoded
from lorecall.audit.stats.sequential import SequentialTest
from lorecall.audit.verdicts import RECITED, Flag, Verdict


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
    """What was found among some candidates that were asked for.

    Attributes:
        taken: How many.
        hits: The recited ones.
        errors: Those that could not be scored.
        left_out: Those that were not decoded.
        checked: Those whose decode was ruled out, and that were decoded as a check,
        found: and those of them that decoding gave, in whatever form or nearly.
    """

    taken: int = 0
    hits: int = 0
    errors: int = 0
    left_out: int = 0
    checked: int = 0
    found: int = 0

    def __add__(self, other: "Taken") -> "Taken":
        """Return both together."""
        return Taken(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


def taken_of(verdict: Verdict, flags: Collection[Flag]) -> Taken:
    """Return one candidate as it counts."""
    checked = Flag.CHECKED in flags
    return Taken(
        1,
        verdict in RECITED,
        verdict is Verdict.ERROR,
        Flag.NOT_DECODED in flags,
        checked,
        checked and verdict in (*RECITED, Verdict.NEAR_VERBATIM),
    )


class StratifiedTest:
    """Decides for each stratum whether its leak rate is below or above a bound.

    Args:
        sizes: The strata by their tags.
        bound: The bound; None for none, where only the intervals are wanted.
        confidence: Of all intervals together, in (0, 1).
        batch: Candidates of a stratum between two looks.
        economical: Whether some may be left undecoded.

    Raises:
        UsageError: The bound or the confidence is not within (0, 1).
    """

    def __init__(
        self,
        sizes: Mapping[str, Size],
        bound: float | None,
        confidence: float,
        batch: int,
        *,
        economical: bool = False,
    ) -> None:
        self._bound, self._confidence, self._batch = bound, confidence, batch
        self._sizes = dict(sizes)
        self._ranked = dict.fromkeys(sizes, Taken())
        self._drawn = dict.fromkeys(sizes, Taken())
        self._check_error = (1.0 - confidence) / 2.0 if economical else 0.0
        each = 1.0 - (1.0 - confidence - self._check_error) / max(1, len(sizes))
        self._tests = {
            tag: SequentialTest(size.of - size.ranked, bound, each, batch) for tag, size in sizes.items()
        }

    def add_ranked(self, tag: str, found: Taken) -> None:
        """Count candidates of a stratum that were asked for because they rank high."""
        self._ranked[tag] += found

    def add_drawn(self, tag: str, found: Taken) -> StratumOutcome:
        """Count the next candidates of a stratum's random order."""
        self._drawn[tag] += found
        self._tests[tag].count(found.taken, found.hits, found.errors + found.left_out)
        return self._stratum(tag, self._hidden)

    def decides(self, found: StratumOutcome) -> bool:
        """Return whether a stratum's rate is known to lie on one side of the bound."""
        return decide(found.low, found.high, self._bound) != "open"

    @property
    def strata(self) -> tuple[StratumOutcome, ...]:
        """What is known of each stratum."""
        hidden = self._hidden
        return tuple(self._stratum(tag, hidden) for tag in self._sizes)

    @property
    def _hidden(self) -> int:
        """How many of all that were left undecoded may be recited, as far as the check says."""
        every = sum((*self._ranked.values(), *self._drawn.values()), Taken())
        unsure = undecoded(every.left_out, every.checked, every.found, 1.0 - self._check_error)
        return 0 if unsure is None else unsure.at_most

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

    def _stratum(self, tag: str, hidden: int) -> StratumOutcome:
        size, ranked, drawn = self._sizes[tag], self._ranked[tag], self._tests[tag].outcome
        of, high = max(1, size.of), drawn.high if drawn.of else 0.0
        left_out = self._drawn[tag].left_out
        among_drawn = min(hidden, left_out)  # there each stands for others, so that the most is counted
        among_ranked = min(hidden - among_drawn, ranked.left_out)
        if left_out:
            high = min(high, self._tests[tag].high(drawn.errors - left_out + among_drawn))
        return StratumOutcome(
            tag=tag,
            of=size.of,
            repeated=size.repeated,
            ranked=ranked.taken,
            ranked_hits=ranked.hits,
            ranked_errors=ranked.errors,
            drawn=drawn.taken,
            hits=drawn.hits,
            errors=drawn.errors - left_out,
            low=min(1.0, (ranked.hits + drawn.low * drawn.of) / of),
            high=min(1.0, (ranked.hits + ranked.errors + among_ranked + high * drawn.of) / of),
            confidence=drawn.confidence - self._check_error,
            left_out=left_out + ranked.left_out,
        )


def stratum_of(tags: Sequence[str]) -> str:
    """Return the stratum of a candidate with these tags: the first of them."""
    return tags[0] if tags else ""


def replay(test: StratifiedTest, seen: Iterable[tuple[str, bool, Taken]], batch: int) -> None:
    """Count candidates in the order in which they were asked for, with the looks of a run in such batches.

    Args:
        test: The test.
        seen: Of each candidate its stratum, whether it ranked high, and how it counts.
        batch: Candidates of a stratum between two looks.
    """
    drawn: dict[str, list[Taken]] = {}
    for tag, ranked, one in seen:
        if ranked:
            test.add_ranked(tag, one)
        else:
            drawn.setdefault(tag, []).append(one)
    for tag, found in drawn.items():
        for start in range(0, len(found), batch):
            test.add_drawn(tag, sum(found[start : start + batch], Taken()))
