"""What a number of adapters costs on a device: memory, room for the cache, and the bound on tokens a second.

The bound is that of memory bandwidth. A decode step has to read the weights once, the factors of each adapter in
the batch once, and the cached keys and values of each request, whatever the kernels are (the memory roof of the
roofline model, Williams et al. 2009, doi:10.1145/1498765.1498785). vLLM pads each slot to `--max-lora-rank`, and
its kernels read the padding: a small adapter costs what its slot costs. Nothing here was measured on a GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lorecall.adapters.capacity.cards import Card
from lorecall.adapters.capacity.sizes import BaseSizes
from lorecall.adapters.core.errors import UsageError

UTILIZATION = 0.92
"""vLLM 0.32's default of `--gpu-memory-utilization`."""

RESERVE = 2e9
"""Bytes that are set aside for activations and CUDA graphs; a guess, which vLLM measures at its start."""

BATCHES = (1, 32, 256)
"""Requests in a decode step for which the bound is given."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be served.

    Attributes:
        adapters: Adapters that answer at once: vLLM's `--max-loras`.
        rank: vLLM's `--max-lora-rank`, to which every slot is padded.
        context: Tokens that a request has in the cache.
        requests: Requests of that many tokens that the cache is to hold.
        factor_bytes: Bytes of one number of an adapter's factors.
        cache_bytes: Bytes of one number in the key/value cache.
    """

    adapters: int
    rank: int
    context: int = 2048
    requests: int = 32
    factor_bytes: int = 2
    cache_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Speed:
    """The bound on decoding at one number of requests.

    Attributes:
        requests: Requests in the step.
        base: Tokens a second of the base alone, at most.
        adapted: The same where the requests are shared out among the adapters.
    """

    requests: int
    base: float
    adapted: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What fits, in bytes, and how fast it can be.

    Attributes:
        weights: Of the base.
        slot: Of one slot.
        slots: Of all slots.
        cache: What is left for keys and values; negative if the rest does not fit.
        cached_tokens: Tokens that it holds.
        most_adapters: Slots that leave room for the requests that were wished for.
        speeds: The bound for each number of requests whose tokens the cache holds.
    """

    weights: int
    slot: int
    slots: int
    cache: int
    cached_tokens: int
    most_adapters: int
    speeds: tuple[Speed, ...]


def slot_bytes(widths: int, rank: int, factor_bytes: int) -> int:
    """Return the bytes of one slot: rank · Σ (d_in + d_out), over the layers that get adapters."""
    return widths * rank * factor_bytes


def make_plan(base: BaseSizes, card: Card, wish: Wish, utilization: float = UTILIZATION) -> Plan:
    """Return what serving a number of adapters over a base costs on a card.

    Raises:
        UsageError: A number is out of its bounds.
    """
    for name in ("adapters", "rank", "context", "requests"):
        if getattr(wish, name) < 1:
            raise UsageError(f"{name} is {getattr(wish, name)}", hint="a whole number from 1", param=name)
    if not 0 < utilization <= 1:
        raise UsageError(f"utilization is {utilization}", hint="over 0, up to 1", param="utilization")
    slot = slot_bytes(base.widths, wish.rank, wish.factor_bytes)
    free = card.memory * utilization - RESERVE - base.weights
    per_token = base.cached_values * wish.cache_bytes
    cache = int(free - wish.adapters * slot)
    wanted = wish.requests * wish.context * per_token
    tokens = max(0, cache // per_token)
    return Plan(
        weights=base.weights,
        slot=slot,
        slots=wish.adapters * slot,
        cache=cache,
        cached_tokens=tokens,
        most_adapters=max(0, int((free - wanted) // slot)),
        speeds=tuple(_speeds(base, card, wish, slot, tokens)),
    )


def _speeds(base: BaseSizes, card: Card, wish: Wish, slot: int, tokens: int) -> Iterator[Speed]:
    for requests in BATCHES:
        if requests * wish.context > tokens:
            return
        read = base.read + requests * wish.context * base.cached_values * wish.cache_bytes
        factors = min(wish.adapters, requests) * slot
        yield Speed(requests, requests * card.bandwidth / read, requests * card.bandwidth / (read + factors))
