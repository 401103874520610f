"""Chooses the adapter of each request: the same sequence for every server that is compared."""

import numpy as np
from lorecall.loadtest.scenario import Traffic


def zipf_shares(count: int, exponent: float) -> list[float]:
    """Return the shares of `count` adapters, the first the most popular: k^-exponent, normalised."""
    weights = np.arange(1, count + 1, dtype=float) ** -exponent
    return [float(share) for share in weights / weights.sum()]


def draw_models(traffic: Traffic, base: str, adapters: list[str]) -> list[str]:
    """Return the model of each request, drawn by the traffic's seed."""
    draw = np.random.default_rng(traffic.seed)
    chosen = draw.choice(len(adapters), size=traffic.requests, p=zipf_shares(len(adapters), traffic.zipf))
    to_base = draw.random(traffic.requests) < traffic.base_share
    return [base if alone else adapters[number] for number, alone in zip(chosen, to_base, strict=True)]
