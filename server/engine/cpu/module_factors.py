"""The low-rank factors of one module, packed: only the ranks in use, in the row kernel's layout.

They are packed in bfloat16 where that is exact. This halves the bytes to read, and reading factors is most of
what a decode step with many adapters costs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lorecall.server.engine.cpu.row_kernel import RANKS_AT_ONCE, Addresses


def used_rank(a: torch.Tensor, b: torch.Tensor) -> int:
    """Return how many leading ranks of a padded pair (a [r, d_in], b [d_out, r]) are not all zero."""
    used = torch.nonzero(a.any(dim=1) & b.any(dim=0))
    return int(used[-1]) + 1 if used.numel() else 0


def is_bfloat16(numbers: torch.Tensor) -> bool:
    """Return whether bfloat16 can represent every number."""
    return bool((numbers.bfloat16().to(numbers.dtype) == numbers).all())


@dataclass(slots=True)
class ModuleFactors:
    """One module's factors over all slots, made from vLLM's zero-padded stacks.

    Attributes:
        a_stacks: vLLM's shrinking stacks, one per slice of the output: [slots, 1, max rank, d_in].
        b_stacks: vLLM's expanding stacks, one per slice: [slots, 1, width of the slice, max rank].
        ranks: Rank in use by slot, rounded up to a multiple of RANKS_AT_ONCE, int64 [slots]; 0 where
            the adapter leaves the module alone.
        exact: By slot, whether its factors are bfloat16 numbers, bool [slots].
        dtype: Of the packed factors: bfloat16 if that is exact for every slot, else float32.
        a: Packed and transposed, [slots, slices, d_in, largest rank in use].
        b: Likewise, the slices side by side: [slots, largest rank in use, d_out].
        starts: First column of each slice, and the end of the last, int64 [slices + 1].
        d_in: Columns of the inputs.
        d_out: Columns of the outputs, those of all slices.
        addresses: Pointers and sizes of this module, for the row kernel.
        idle: Whether no adapter changes this module.
        stale: Slots whose adapter changed since they were packed.
    """

    a_stacks: tuple[torch.Tensor, ...]
    b_stacks: tuple[torch.Tensor, ...]
    ranks: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    starts: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    exact: np.ndarray[Any, np.dtype[np.bool_]] = field(init=False)
    dtype: torch.dtype = field(init=False, default=torch.bfloat16)
    a: torch.Tensor = field(init=False)
    b: torch.Tensor = field(init=False)
    d_in: int = field(init=False)
    d_out: int = field(init=False)
    addresses: Addresses = field(init=False)
    idle: bool = field(init=False, default=True)
    stale: set[int] = field(init=False)

    def __post_init__(self) -> None:
        slots = self.a_stacks[0].shape[0]
        widths = [stack.shape[2] for stack in self.b_stacks]
        self.ranks = np.zeros(slots, dtype=np.int64)
        self.exact = np.ones(slots, dtype=np.bool_)
        self.starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
        self.d_in, self.d_out = self.a_stacks[0].shape[3], sum(widths)
        self._make_room(0)
        self.stale = set(range(slots))

    @property
    def columns(self) -> list[slice]:
        """The output columns of each slice."""
        return [slice(int(low), int(high)) for low, high in zip(self.starts, self.starts[1:], strict=False)]

    def refresh(self) -> None:
        """Pack the slots whose adapter changed."""
        for slot in self.stale:
            stacks = [(a[slot, 0], b[slot, 0]) for a, b in zip(self.a_stacks, self.b_stacks, strict=True)]
            rank = max(used_rank(a, b) for a, b in stacks)
            self.ranks[slot] = -(-rank // RANKS_AT_ONCE) * RANKS_AT_ONCE
            self.exact[slot] = all(is_bfloat16(a[:rank]) and is_bfloat16(b[:, :rank]) for a, b in stacks)
        largest = int(self.ranks.max())
        self.idle = largest == 0
        dtype = torch.bfloat16 if self.exact.all() else torch.float32
        if largest > self.a.shape[3] or (largest == 0 and self.a.numel()) or dtype != self.dtype:
            self.dtype = dtype
            self._make_room(largest)
            self.stale = set(range(len(self.ranks)))
        for slot in self.stale:
            rank = int(self.ranks[slot])
            for piece, columns in enumerate(self.columns):
                a, b = self.a_stacks[piece][slot, 0, :rank], self.b_stacks[piece][slot, 0, :, :rank]
                self.a[slot, piece, :, : len(a)] = a.t()
                self.a[slot, piece, :, len(a) :] = 0
                self.b[slot, : len(a), columns] = b.t()
                self.b[slot, len(a) :, columns] = 0
        self.stale = set()

    def _make_room(self, rank: int) -> None:
        slots = len(self.ranks)
        self.a = torch.zeros(slots, len(self.a_stacks), self.d_in, rank, dtype=self.dtype)
        self.b = torch.zeros(slots, rank, self.d_out, dtype=self.dtype)
        pointers = (self.a.data_ptr(), self.b.data_ptr(), self.ranks.ctypes.data, self.starts.ctypes.data)
        self.addresses = (*pointers, *self.a.shape, self.d_out)
