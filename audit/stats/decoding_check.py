"""What the snippets that were decoded as a check say of those that were not decoded."""

import math
from dataclasses import replace

from lorecall.audit.records import Rate, Undecoded
from lorecall.audit.stats.intervals import at_most, clopper_pearson


def undecoded(left_out: int, checked: int, found: int, confidence: float) -> Undecoded | None:
    """Return what is known of snippets whose decode was ruled out; None if there are none.

    Args:
        left_out: Those not decoded.
        checked: Those decoded as a check, drawn at random among all that were ruled out.
        found: Those of them that decoding gave.
        confidence: Of the one-sided interval.
    """
    if not left_out and not checked:
        return None
    return Undecoded(left_out, checked, found, _most(left_out, checked, found, confidence))


def _most(left_out: int, checked: int, found: int, confidence: float) -> int:
    # Clopper and Pearson's limit is for draws with replacement; without it the true one is smaller.
    rate = at_most(found, checked, confidence)
    return min(left_out, max(0, math.floor((left_out + checked) * rate + 1e-9) - found))


def most_recited(rate: Rate, ruled_out: Undecoded | None, confidence: float) -> float:
    """Return the upper end of a rate's one-sided interval, with as many undecoded hits as the check allows.

    Where something was not decoded, each of the two bounds takes half of the error.
    """
    if ruled_out is None:
        return at_most(rate.hits, rate.of, confidence)
    sure = 1.0 - (1.0 - confidence) / 2.0
    more = _most(ruled_out.left_out, ruled_out.checked, ruled_out.found, sure)
    return at_most(min(rate.of, rate.hits + more), rate.of, sure)


def rate_of(hits: int, of: int, confidence: float, ruled_out: Undecoded | None) -> Rate:
    """Return a rate with its two-sided interval; its upper end is `most_recited` where not all was decoded."""
    rate = clopper_pearson(hits, of, confidence)
    if ruled_out is None or not ruled_out.left_out:
        return rate
    return replace(rate, high=max(rate.high, most_recited(rate, ruled_out, (1.0 + confidence) / 2.0)))
