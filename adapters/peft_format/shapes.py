"""Shapes of the adapted modules, and effective parameters: the measure of how much an adapter can store."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModuleShape:
    """One adapted module.

    Attributes:
        name: Its name in the base, such as "model.layers.7.mlp.down_proj".
        rank: Rank r of its update B·A, with A (r, d_in) and B (d_out, r).
        d_in: Input width of the module.
        d_out: Output width of the module.
    """

    name: str
    rank: int
    d_in: int
    d_out: int

    @property
    def effective_parameters(self) -> int:
        """The entries of A and B: r · (d_in + d_out)."""
        return self.rank * (self.d_in + self.d_out)


def effective_parameters(modules: Iterable[ModuleShape]) -> int:
    """Return Σ r · (d_in + d_out) over the adapted modules (2·d·r for one square one, arXiv 2605.30260)."""
    return sum(module.effective_parameters for module in modules)
