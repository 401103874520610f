"""Chooses the adapter of each request: the same sequence for every server that is compared."""

from collections.abc import Sequence

import numpy as np
from lorecall.loadtest.scenario import Traffic


def zipf_shares(count: int, exponent: float) -> list[float]:
    """Return the shares of `count` adapters, the first the most popular: k^-exponent, normalised."""
    weights = np.arange(1, count + 1, dtype=float) ** -exponent
    return [float(share) for share in weights / weights.sum()]


def draw_models(traffic: Traffic, base: str, adapters: Sequence[str]) -> list[str]:
    """Return the model of each request, drawn by the traffic's seed; see `MIXES` in `scenario`."""
    draw = np.random.default_rng(traffic.seed)
    chosen = _places(traffic, len(adapters), draw)
    to_base = draw.random(traffic.requests) < traffic.base_share
    return [base if alone else adapters[number] for number, alone in zip(chosen, to_base, strict=True)]


def _places(traffic: Traffic, count: int, draw: np.random.Generator) -> list[int]:
    """Return the place of each request's adapter among `count`."""
    wanted = range(traffic.requests)
    match traffic.mix:
        case "identical":
            return [0 for _ in wanted]
        case "distinct" | "round-robin":
            return [number % count for number in wanted]
        case "uniform":
            return [int(number) for number in draw.integers(count, size=traffic.requests)]
        case "zipf":
            shares = zipf_shares(count, traffic.zipf)
            return [int(number) for number in draw.choice(count, size=traffic.requests, p=shares)]


def recency(models: Sequence[str]) -> list[int | None]:
    """Return how many other models were asked for since each request's was; None for its first time.

    It is the distance in a stack by the least recent use: a cache of n of them holds what is below n.
    Mattson et al. 1970, "Evaluation techniques for storage hierarchies".
    """
    stack: list[str] = []
    found: list[int | None] = []
    for model in models:
        place = len(stack) - 1 - stack.index(model) if model in stack else None
        if place is not None:
            stack.remove(model)
        stack.append(model)
        found.append(place)
    return found


def as_often(models: Sequence[str], few: Sequence[str], slots: int) -> list[str]:
    """Return a sequence over few models that hits a cache of `slots` at the same requests as another sequence.

    A hit takes the model at the same place of the stack by the least recent use; a miss the one longest unused.

    Args:
        models: The other sequence.
        few: More names than there are slots.
        slots: The models that the cache holds.
    """
    stack = list(few)
    found = []
    for place in recency(models):
        hit = place is not None and place < slots
        model = stack.pop(len(stack) - 1 - place if hit and place is not None else 0)
        stack.append(model)
        found.append(model)
    return found
