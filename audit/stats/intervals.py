"""Confidence intervals on rates: two-sided ones to show, one-sided ones for "at most" and "more than"."""

from functools import lru_cache

from lorecall.audit.records import CONFIDENCE, Rate


@lru_cache(maxsize=4096)
def clopper_pearson(hits: int, of: int, confidence: float = CONFIDENCE) -> Rate:
    """Return the exact two-sided binomial interval (Clopper, Pearson 1934); (0, 1) if nothing was tried.

    Raises:
        ValueError: `hits` is not within 0..`of`, or `confidence` not within (0, 1).
    """
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} hits in {of} tries")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be within (0, 1), not {confidence}")
    if of == 0:
        return Rate(0, 0, 0.0, 1.0, confidence)
    from scipy.stats import binomtest  # noqa: PLC0415  scipy.stats takes a second to import

    interval = binomtest(hits, of).proportion_ci(confidence_level=confidence, method="exact")
    return Rate(hits, of, float(interval.low), float(interval.high), confidence)


@lru_cache(maxsize=4096)
def at_most(hits: int, of: int, confidence: float = CONFIDENCE) -> float:
    """Return the upper end of the exact one-sided interval (Clopper, Pearson 1934); 1 if nothing was tried.

    The true rate is no larger, with that confidence: 0 of 300 gives 0.994 % at 95 %.
    """
    if of == 0:
        return 1.0
    from scipy.stats import binomtest  # noqa: PLC0415  scipy.stats takes a second to import

    tested = binomtest(hits, of, alternative="less")
    return float(tested.proportion_ci(confidence_level=confidence, method="exact").high)
