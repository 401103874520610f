"""The low-rank factors of one module, packed: only the ranks in use, in the kernel's layout.

They are packed in bfloat16 where that is exact. This halves the bytes to read, and reading factors is most of
what a decode step with many adapters costs.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lorecall.server.engine.cpu.compiled import load_operators

LANES, BLOCK = 16, 48
"""Packed columns of A are a multiple of the first, those of a slice of B of the second; as in the kernel."""

RANKS_AT_ONCE = 2
"""Packed ranks are padded with zeros to a multiple, since bfloat16 factors are packed in pairs."""

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Of vLLM's stacks, as the kernel takes them."""

FLOAT32, PAIRS, ROUNDED = 0, 1, 2
"""How the kernel multiplies: float32 factors; bfloat16 factors and float32 inputs; both in bfloat16.

Sums are float32. The second loses nothing: it is for float32 adapters whose numbers are all bfloat16. The third
is for `--lora-dtype bfloat16`; a CPU without AVX512_BF16 does the second there.
"""


@functools.cache
def load_kernel() -> None:
    """Define the kernel's operators, below `torch.ops.lorecall`."""
    load_operators("lora_kernel")
    torch.library.register_fake("lorecall::add_lora", lambda _y, _x, _layer: None)


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
        a: Packed by slot, the ranks of all slices side by side: [slots, room for the largest rank in use].
        b: Packed by slot, in blocks of BLOCK columns, slice after slice: likewise.
        starts: First column of each slice, and the end of the last, int64 [slices + 1].
        d_in: Columns of the inputs.
        d_out: Columns of the outputs, those of all slices.
        largest: The largest rank in use.
        record: Pointers and sizes of this module, as the kernel takes them, int64 [11]; it stays where it is.
        addresses: Of the stacks, those of A first, uint64 [2 * slices].
        stacks: Pointers to both halves of `addresses`, rows of a slot of A, and the stacks' type, int64 [4].
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
    largest: int = field(init=False, default=0)
    record: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    addresses: np.ndarray[Any, np.dtype[np.uint64]] = field(init=False)
    stacks: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    stale: set[int] = field(init=False)

    def __post_init__(self) -> None:
        load_kernel()
        if not all(stack.is_contiguous() for stack in (*self.a_stacks, *self.b_stacks)):
            raise ValueError("the kernel reads contiguous stacks")
        slots = self.a_stacks[0].shape[0]
        widths = [stack.shape[2] for stack in self.b_stacks]
        self.ranks = np.zeros(slots, dtype=np.int64)
        self.exact = np.ones(slots, dtype=np.bool_)
        self.starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
        self.d_in, self.d_out = self.a_stacks[0].shape[3], sum(widths)
        self.record = np.zeros(11, dtype=np.int64)
        self.addresses = np.array(
            [one.data_ptr() for one in (*self.a_stacks, *self.b_stacks)], dtype=np.uint64
        )
        first, like = self.addresses.ctypes.data, self.a_stacks[0]
        second = first + len(self.a_stacks) * self.addresses.itemsize
        self.stacks = np.array([first, second, like.shape[2], TYPES[like.dtype]], dtype=np.int64)
        self._make_room(0)
        self.stale = set(range(slots))

    def refresh(self) -> None:
        """Pack the slots whose adapter changed."""
        kernel, at = torch.ops.lorecall, (self.record.ctypes.data, self.stacks.ctypes.data)
        for slot in self.stale:
            rank = kernel.used_rank(*at, slot)
            self.ranks[slot] = -(-rank // RANKS_AT_ONCE) * RANKS_AT_ONCE
            self.exact[slot] = kernel.is_bfloat16(*at, slot, rank)
        largest = int(self.ranks.max())
        dtype = torch.bfloat16 if self.exact.all() else torch.float32
        if largest > self.largest or (largest == 0 and self.largest) or dtype != self.dtype:
            self.dtype = dtype
            self._make_room(largest)
            self.stale = set(range(len(self.ranks)))
        for slot in self.stale:
            kernel.pack_slot(*at, slot)
        self.stale = set()

    @property
    def arithmetic(self) -> int:
        """How the kernel multiplies: FLOAT32, PAIRS or ROUNDED."""
        if self.dtype == torch.float32:
            return FLOAT32
        return ROUNDED if self.a_stacks[0].dtype == torch.bfloat16 else PAIRS

    def _make_room(self, rank: int) -> None:
        slots, self.largest = len(self.ranks), rank
        d_in = self.d_in + self.d_in % 2
        blocks = int((-(-np.diff(self.starts) // BLOCK)).sum())
        self.a = torch.zeros(slots, d_in * -(-rank * len(self.a_stacks) // LANES) * LANES, dtype=self.dtype)
        self.b = torch.zeros(slots, rank * blocks * BLOCK, dtype=self.dtype)
        pointers = (self.a.data_ptr(), self.b.data_ptr(), self.ranks.ctypes.data, self.starts.ctypes.data)
        sizes = (self.a.shape[1], self.b.shape[1], len(self.a_stacks), self.d_in, self.d_out, rank)
        self.record[:] = (*pointers, *sizes, self.arithmetic)
