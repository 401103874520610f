"""Cut a sequence into batches, and put one into a random order."""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the values in order, `size` at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Yield 0 .. count - 1 in random order (Fisher and Yates); memory grows only with what was yielded."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.pop(place, place)
