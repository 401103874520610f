"""Memory and bandwidth of some GPUs, from their makers' data sheets."""

from dataclasses import dataclass

from lorecall.adapters.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU.

    Attributes:
        memory: Bytes of its memory.
        bandwidth: Bytes a second between its memory and its processors, at most.
    """

    memory: float
    bandwidth: float


CARDS = {
    "T4": Card(16e9, 0.30e12),
    "L4": Card(24e9, 0.30e12),
    "A10": Card(24e9, 0.60e12),
    "L40S": Card(48e9, 0.864e12),
    "A100-40GB": Card(40e9, 1.555e12),
    "A100-80GB": Card(80e9, 2.039e12),
    "H100-PCIe": Card(80e9, 2.0e12),
    "H100": Card(80e9, 3.35e12),
    "H200": Card(141e9, 4.8e12),
    "B200": Card(180e9, 8.0e12),
}
"""By name; A100-80GB and H100 are the SXM modules."""


def card_named(name: str) -> Card:
    """Return the card of a name, whatever its case.

    Raises:
        UsageError: It is not in the table.
    """
    found = {key.casefold(): card for key, card in CARDS.items()}.get(name.casefold())
    if found is None:
        raise UsageError(
            f"no GPU {name!r} in the table",
            hint=f"one of {', '.join(CARDS)}; or give --memory and --bandwidth",
            param="gpu",
        )
    return found
