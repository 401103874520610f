"""An audit that stops as soon as the leak rate of a finite candidate set is known to be below or above a bound.

The candidates are taken in random order, without replacement. After each one, the confidence sequence of
Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement" (NeurIPS 2020, arXiv
2006.04347, section 2), holds the set of leak counts K of the N candidates that the prior-posterior ratio does
not rule out. With probability of at least the confidence it holds the true count at all times at once, so one
may look after every snippet and stop at any. When all are taken, only the true count is left.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.estimates import Outcome
from scipy.special import betaln, gammaln

USUAL = 0.01
"""Where the prior's weight lies without a bound; the interval holds with any."""


class SequentialTest:
    """Decides whether a leak rate is below or above a bound, while candidates are taken in random order.

    Args:
        of: Candidates in the set, N.
        bound: The bound on the rate, in (0, 1); None where only the interval is wanted.
        confidence: In (0, 1).
        batch: Candidates that are taken between two looks at the result.

    Raises:
        UsageError: The bound or the confidence is not within (0, 1).
    """

    def __init__(self, of: int, bound: float | None, confidence: float, batch: int | None = None) -> None:
        if bound is not None and not 0.0 < bound < 1.0:
            raise UsageError(
                f"the bound must be within (0, 1), not {bound}", hint="such as 0.001", param="bound"
            )
        if not 0.0 < confidence < 1.0:
            raise UsageError(f"the confidence must be within (0, 1), not {confidence}", param="confidence")
        self._of = of
        # Beta(1, 1/bound) is fixed before any snippet is seen, which keeps the guarantee, and puts the prior's
        # weight near the bound, which lets a clean adapter be cleared with fewer snippets.
        self._prior = (1.0, 1.0 / (bound or USUAL))
        self.outcome = Outcome(bound, confidence, of, 0, 0, 0.0, 1.0, batch=batch)

    def count(self, taken: int, hits: int, errors: int = 0) -> Outcome:
        """Count the next `taken` snippets, `hits` of them recited.

        Nobody knows whether the `errors` that could not be scored would have been recited: the lower end counts
        them as not recited, the upper end as recited, so they neither clear nor convict.
        """
        now = self.outcome
        taken, hits, errors = now.taken + taken, now.hits + hits, now.errors + errors
        limit = math.log(1.0 / (1.0 - now.confidence))
        least, greatest = self._interval(taken, hits, limit)
        if errors:
            _, greatest = self._interval(taken, hits + errors, limit)
        # The intersection over time holds as well, so an interval never widens again; unless the two exclude
        # each other, which happens no more often than the confidence leaves room for: then this one counts.
        low, high = max(now.low, least / self._of), min(now.high, greatest / self._of)
        if low > high:
            low, high = least / self._of, greatest / self._of
        self.outcome = replace(now, taken=taken, hits=hits, low=low, high=high, errors=errors)
        return self.outcome

    def high(self, unknown: int) -> float:
        """Return the upper end, looked at once now, where so many of those taken may have been hits, too."""
        limit = math.log(1.0 / (1.0 - self.outcome.confidence))
        return self._interval(self.outcome.taken, self.outcome.hits + unknown, limit)[1] / self._of

    def _interval(self, taken: int, hits: int, limit: float) -> tuple[int, int]:
        """Return the least and the greatest leak count that is not ruled out."""
        least, greatest = hits, self._of - (taken - hits)
        mode = min(greatest, max(least, round(hits / taken * self._of)))
        return (
            _last(mode, least, lambda k: self._log_ratio(k, taken, hits) < limit),
            _last(mode, greatest, lambda k: self._log_ratio(k, taken, hits) < limit),
        )

    def _log_ratio(self, leaks: int, taken: int, hits: int) -> float:
        """Return ln of prior over posterior at `leaks`: the marginal over the likelihood of what was seen."""
        a, b = self._prior
        marginal = betaln(a + hits, b + taken - hits) - betaln(a, b)
        likelihood = (
            _log_falling(leaks, hits)
            + _log_falling(self._of - leaks, taken - hits)
            - _log_falling(self._of, taken)
        )
        return float(marginal - likelihood)


def _log_falling(n: int, k: int) -> float:
    """Return ln of n (n - 1) ... (n - k + 1)."""
    return float(gammaln(n + 1) - gammaln(n - k + 1))


def _last(start: int, end: int, kept: Callable[[int], bool]) -> int:
    """Return the count farthest from `start` towards `end` that is kept.

    The ratio grows monotonically away from the mode, because the likelihood is log-concave in the count.
    """
    near, far = start, end
    if kept(far):
        return far
    while abs(far - near) > 1:
        middle = (near + far) // 2
        near, far = (middle, far) if kept(middle) else (near, middle)
    return near
