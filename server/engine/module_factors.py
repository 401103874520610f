"""The low-rank factors of one module, packed: only ranks in use, laid out for the products that are done."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lorecall.server.engine.row_kernel import RANKS_AT_ONCE


def used_rank(a: torch.Tensor, b: torch.Tensor) -> int:
    """Return how many leading ranks of a padded pair (a [r, d_in], b [d_out, r]) are not all zero."""
    used = torch.nonzero(a.any(dim=1) & b.any(dim=0))
    return int(used[-1]) + 1 if used.numel() else 0


@dataclass(slots=True)
class ModuleFactors:
    """One module's factors over all slots, made from vLLM's zero-padded stacks.

    Attributes:
        a_stacks: vLLM's shrinking stacks, one per slice of the output: [slots, 1, max rank, d_in].
        b_stacks: vLLM's expanding stacks, one per slice: [slots, 1, width of the slice, max rank].
        ranks: Rank in use by slot, rounded up to what the row kernel takes at once, int64 [slots]; 0 where
            the adapter leaves the module alone.
        a: Packed as float32, [slots, slices, largest rank in use, d_in].
        b: Likewise and transposed, the slices side by side: [slots, largest rank in use, d_out].
        starts: First column of each slice, and the end of the last, int64 [slices + 1].
        arrays: `a` and `b` as the row kernel takes them, over the same memory.
        idle: Whether no adapter touches this module.
        stale: Slots whose adapter changed since they were packed.
    """

    a_stacks: tuple[torch.Tensor, ...]
    b_stacks: tuple[torch.Tensor, ...]
    ranks: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    starts: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    a: torch.Tensor = field(init=False)
    b: torch.Tensor = field(init=False)
    arrays: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] = field(init=False)
    idle: bool = field(init=False, default=True)
    stale: set[int] = field(init=False)

    def __post_init__(self) -> None:
        slots = self.a_stacks[0].shape[0]
        widths = [stack.shape[2] for stack in self.b_stacks]
        self.ranks = np.zeros(slots, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
        self._make_room(0)
        self.stale = set(range(slots))

    @property
    def columns(self) -> list[slice]:
        """The output columns of each slice."""
        return [slice(int(low), int(high)) for low, high in zip(self.starts, self.starts[1:], strict=False)]

    def refresh(self) -> None:
        """Pack the slots whose adapter changed."""
        for slot in self.stale:
            pairs = zip(self.a_stacks, self.b_stacks, strict=True)
            rank = max(used_rank(a[slot, 0], b[slot, 0]) for a, b in pairs)
            self.ranks[slot] = -(-rank // RANKS_AT_ONCE) * RANKS_AT_ONCE
        largest = int(self.ranks.max())
        self.idle = largest == 0
        if largest > self.a.shape[2] or (largest == 0 and self.a.numel()):
            self._make_room(largest)
            self.stale = set(range(len(self.ranks)))
        for slot in self.stale:
            rank = int(self.ranks[slot])
            for piece, columns in enumerate(self.columns):
                a, b = self.a_stacks[piece][slot, 0, :rank], self.b_stacks[piece][slot, 0, :, :rank]
                self.a[slot, piece, : len(a)] = a
                self.a[slot, piece, len(a) :] = 0
                self.b[slot, : len(a), columns] = b.t()
                self.b[slot, len(a) :, columns] = 0
        self.stale = set()

    def _make_room(self, rank: int) -> None:
        slots, _, _, d_in = self.a_stacks[0].shape
        self.a = torch.zeros(slots, len(self.a_stacks), rank, d_in)
        self.b = torch.zeros(slots, rank, int(self.starts[-1]))
        self.arrays = (self.a.numpy(), self.b.numpy())
