"""Round what a report says of a text so far that no token can be named by it.

Whoever has the adapter can compute the probability of every token at a place. So a redacted report gives
probabilities to two digits, ranks as powers of ten, and losses to two digits.
"""

import math

PLACES = 2


def coarse_p(p: float) -> float:
    """Return a probability to two digits, on the same side of one half."""
    hundreds = p * 10.0**PLACES
    return (math.ceil(hundreds) if p > 0.5 else math.floor(hundreds)) / 10.0**PLACES


def coarse_chance(chance: float, *, over: bool) -> float:
    """Return a probability to two digits, on the same side of a line that it is over (or on), or under."""
    hundreds = chance * 10.0**PLACES
    return min(1.0, (math.ceil(hundreds) if over else math.floor(hundreds)) / 10.0**PLACES)


def coarse_count(count: float, *, up: bool) -> int:
    """Return a count in two significant digits, rounded up or down."""
    step = 10 ** max(0, len(str(int(count))) - PLACES)
    return step * (math.ceil(count / step) if up else math.floor(count / step))


def coarse_rank(rank: int) -> int:
    """Return 1 for the first, otherwise the least power of ten that is no smaller."""
    return 1 if rank == 1 else 10 ** math.ceil(math.log10(rank))


def coarse_nats(nats: float) -> float:
    """Return a loss, in nats a token, to two digits."""
    return round(nats, PLACES)


def coarse_bits(bits: float) -> float:
    """Return a surprise in whole bits."""
    return float(round(bits))


def coarse_log10(value: float) -> float | None:
    """Return a logarithm to one digit; None for an infinite one."""
    return round(value, 1) if math.isfinite(value) else None
