"""LoRA on CPU with tokens grouped by adapter: correct for mixed batches, and fast.

vLLM 0.32 copies the adapter's matrices for every token, which takes tokens x rank x width of memory and fails on
long prompts. It also reads the index -1 (no adapter) as the last slot, so requests to the base are answered
through some adapter. Here the rows of a step are grouped by adapter, and one call of a compiled kernel
(`lora_kernel.cpp`) computes all groups of a module. Rows without an adapter are never touched.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lorecall.server.engine.cpu.module_factors import ModuleFactors, load_kernel
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

ROWS_AT_ONCE = 8
"""Rows of one slot that are computed together; ROWS in the kernel."""

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of one step that have an adapter, in groups of one slot.

    Attributes:
        groups: Row numbers; an incomplete group repeats its last row, int64 [n, ROWS_AT_ONCE].
        sizes: How many rows each group has, int64 [n].
        slots: The slot of each group, int64 [n].
        count: How many rows the step has, with and without an adapter.
        record: Pointers to the three arrays, their length and `count`, as the kernel takes them, int64 [5].
    """

    groups: IntArray
    sizes: IntArray
    slots: IntArray
    count: int
    record: IntArray = field(init=False)

    def __post_init__(self) -> None:
        pointers = (array.ctypes.data for array in (self.groups, self.sizes, self.slots))
        object.__setattr__(self, "record", np.array([*pointers, len(self.slots), self.count], dtype=np.int64))


def split_rows(slots: IntArray) -> StepRows:
    """Split a step into groups by the slot of each row [rows]; -1 means no adapter."""
    groups, sizes, owners = [], [], []
    for slot in np.unique(slots[slots >= 0]):
        rows = np.flatnonzero(slots == slot)
        count = -(-len(rows) // ROWS_AT_ONCE)
        places = np.minimum(np.arange(count * ROWS_AT_ONCE), len(rows) - 1)
        groups.append(rows[places].reshape(count, ROWS_AT_ONCE))
        sizes.append(np.minimum(len(rows) - np.arange(count) * ROWS_AT_ONCE, ROWS_AT_ONCE))
        owners.append(np.full(count, slot))
    empty = np.empty(0, dtype=np.int64)
    return StepRows(
        np.concatenate([empty.reshape(0, ROWS_AT_ONCE), *groups], dtype=np.int64),
        np.concatenate([empty, *sizes], dtype=np.int64),
        np.concatenate([empty, *owners], dtype=np.int64),
        len(slots),
    )


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU LoRA kernels with the products done per run of rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        load_kernel()  # compiled at the start, not by the first request
        self._token_rows = self._sampler_rows = split_rows(np.empty(0, dtype=np.int64))
        self._logits_slots: IntArray | None = None
        self._modules: dict[int, ModuleFactors] = {}
        self.step = self._token_rows.record.copy()
        """The record of the step's rows; it stays where it is."""

    def pack_slot(self, slot: int) -> None:
        """Pack the factors of a slot; called when another adapter has been loaded into it."""
        for module in self._modules.values():
            module.stale.add(slot)
            module.refresh()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the step's mapping of rows to slots, and group its rows."""
        super().update_metadata(*args, **kwargs)
        self._token_rows = split_rows(self.token_lora_indices.numpy())
        self._sampler_rows = split_rows(self.sampler_indices.numpy())
        self.step[:] = self._token_rows.record

    def set_logits_rows(self, slots: IntArray | None) -> None:
        """Set the slots of the next logits' rows: one per row, or one for all of them (-1: no adapter).

        None restores vLLM's mapping of one row per request.
        """
        self._logits_slots = slots

    def factors(
        self, a_stacks: tuple[torch.Tensor, ...], b_stacks: tuple[torch.Tensor, ...]
    ) -> ModuleFactors:
        """Return the packed factors of the module that owns these stacks."""
        module = self._modules.get(id(a_stacks[0]))
        if module is None:
            # ModuleFactors holds the stacks, so that no other object can get this id
            module = self._modules[id(a_stacks[0])] = ModuleFactors(a_stacks, b_stacks)
            module.refresh()
        return module

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],  # noqa: ARG002  (upstream's signature; the stacks say the same)
        **_: Any,
    ) -> None:
        """Add every adapter's share to `y` [rows, d_out] in place, from `x` [rows, d_in]."""
        add_step(y, x, self._token_rows, self.factors(lora_a_stacked, lora_b_stacked), scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add an `lm_head` adapter's share to the logits `y` [rows, vocab], from `x` [rows, hidden]."""
        slots = self._logits_slots
        step = self._sampler_rows if slots is None else split_rows(np.broadcast_to(slots, x.shape[0]))
        module = self.factors((lora_a_stacked,), (lora_b_stacked,))
        add_step(y, x, step, module, scale)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,  # noqa: FBT001, FBT002  (upstream's signature)
        **_: Any,
    ) -> None:
        """Add an embedding adapter's share to `y` [rows, d]; `x` [rows, r] is already shrunk."""
        slots = self.token_lora_indices
        for slot in slots.unique().tolist():
            if slot < 0:
                continue
            rows = torch.nonzero(slots == slot).flatten()
            b = lora_b_stacked[slot, 0]
            share = (x[rows].to(b.dtype) @ b.t()).to(y.dtype)
            y[rows] = y[rows] + share if add_inputs else share


def add_step(y: torch.Tensor, x: torch.Tensor, step: StepRows, module: ModuleFactors, scale: float) -> None:
    """Add the adapters' shares of one module to `y` [rows, d_out] in place, from `x` [rows, d_in].

    Raises:
        RuntimeError: The step or the module does not fit the tensors; the kernel would write out of bounds.
    """
    load_kernel()
    torch.ops.lorecall.add_step(y, x, step.record.ctypes.data, module.record.ctypes.data, scale)
