"""LoRA on CPU with tokens grouped by adapter: right for mixed batches, and fast.

vLLM 0.32 gathers a copy of the adapter's matrices for every token, which takes tokens x rank x width of memory
and dies on long prompts, and it reads the index -1 (no adapter) as the last slot, so requests for the base are
answered through somebody's adapter. Here the rows of a step are grouped by adapter once, and every layer does
two small matrix products per group; rows without an adapter are never touched.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lorecall.server.engine.plugin import require
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

WRAPPER = "lorecall.server.engine.grouped_lora.GroupedPunicaWrapper"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The rows of one step that run through one adapter slot.

    Attributes:
        slot: Index of the adapter's slot in the stacked matrices.
        rows: A slice where the rows are neighbours, else their indices, shape [n].
    """

    slot: int
    rows: slice | torch.Tensor


@dataclass(frozen=True, slots=True)
class Factor:
    """One low-rank factor pair of one module and slot, without the zero padding of its rank.

    Attributes:
        a_t: Shape [d_in, r].
        b_t: Shape [r, d_out].
        columns: The columns of the module's output that it adds to.
    """

    a_t: torch.Tensor
    b_t: torch.Tensor
    columns: slice


def group_rows(slots: np.ndarray[Any, np.dtype[np.int64]]) -> list[RowGroup]:
    """Group row numbers by slot, leaving out -1 (no adapter). `slots` has shape [rows]."""
    groups = []
    for slot in np.unique(slots[slots >= 0]):
        rows = np.flatnonzero(slots == slot)
        first, last = int(rows[0]), int(rows[-1]) + 1
        neighbours = last - first == len(rows)
        groups.append(RowGroup(int(slot), slice(first, last) if neighbours else torch.from_numpy(rows)))
    return groups


def used_rank(a: torch.Tensor, b: torch.Tensor) -> int:
    """Return how many leading ranks of a padded pair (a [r, d_in], b [d_out, r]) are not all zero."""
    used = torch.nonzero(a.any(dim=1) & b.any(dim=0))
    return int(used[-1]) + 1 if used.numel() else 0


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU LoRA kernels with the products done per group of rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: list[RowGroup] = []
        self._sampler_groups: list[RowGroup] = []
        self._factors: dict[tuple[int, int], list[Factor]] = {}
        self._logits_groups: list[RowGroup] | None = None

    def forget_slot(self, slot: int) -> None:
        """Drop what was derived from a slot's matrices; called when an adapter moves into the slot."""
        self._factors = {key: value for key, value in self._factors.items() if key[1] != slot}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the step's mapping of rows to slots, and group it."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = group_rows(self.token_lora_indices.numpy())
        self._sampler_groups = group_rows(self.sampler_indices.numpy())

    def set_logits_rows(self, slots: np.ndarray[Any, np.dtype[np.int64]] | None) -> None:
        """Say whose rows the next logits are: one slot per row (-1: none); None: one row per request."""
        self._logits_groups = None if slots is None else group_rows(slots)

    def factors(
        self,
        slot: int,
        a_stacked: tuple[torch.Tensor, ...],
        b_stacked: tuple[torch.Tensor, ...],
        output_slices: tuple[int, ...],
    ) -> list[Factor]:
        """Return the factor pairs of one module in one slot; none where the adapter leaves the module alone."""
        key = (a_stacked[0].data_ptr(), slot)
        found = self._factors.get(key)
        if found is None:
            found = self._factors[key] = _read_factors(slot, a_stacked, b_stacked, output_slices)
        return found

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add every adapter's share to `y` [rows, d_out] in place, from `x` [rows, d_in]."""
        for group in self._token_groups:
            factors = self.factors(group.slot, lora_a_stacked, lora_b_stacked, output_slices)
            if factors:
                _add_group(y, x, group.rows, factors, scale)

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
        groups = self._sampler_groups if self._logits_groups is None else self._logits_groups
        width = min(y.shape[1], lora_b_stacked.shape[2])  # the two may be padded differently
        for group in groups:
            factors = self.factors(group.slot, (lora_a_stacked,), (lora_b_stacked[:, :, :width],), (width,))
            if factors:
                _add_group(y, x, group.rows, factors, scale)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,  # noqa: FBT001, FBT002  (upstream's signature)
        **_: Any,
    ) -> None:
        """Add an embedding adapter's share to `y` [rows, d]; `x` [rows, r] is already shrunk."""
        for group in self._token_groups:
            b = lora_b_stacked[group.slot, 0]
            share = x[group.rows].to(b.dtype) @ b.t()
            y[group.rows] = y[group.rows] + share.to(y.dtype) if add_inputs else share.to(y.dtype)


def _read_factors(
    slot: int,
    a_stacked: tuple[torch.Tensor, ...],
    b_stacked: tuple[torch.Tensor, ...],
    output_slices: tuple[int, ...],
) -> list[Factor]:
    factors, start = [], 0
    for a, b, width in zip(a_stacked, b_stacked, output_slices, strict=True):
        rank = used_rank(a[slot, 0], b[slot, 0])
        if rank:
            a_t = a[slot, 0, :rank].t()
            factors.append(Factor(a_t, b[slot, 0, :, :rank].t(), slice(start, start + width)))
        start += width
    return factors


def _add_group(
    y: torch.Tensor, x: torch.Tensor, rows: slice | torch.Tensor, factors: list[Factor], scale: float
) -> None:
    x_rows = x[rows]
    if x_rows.dtype != factors[0].a_t.dtype:
        x_rows = x_rows.to(factors[0].a_t.dtype)
    for factor in factors:
        shrunk = x_rows @ factor.a_t
        if isinstance(rows, slice) and y.dtype == shrunk.dtype:
            y[rows, factor.columns].addmm_(shrunk, factor.b_t, alpha=scale)
        else:
            share = (shrunk @ factor.b_t).mul_(scale).to(y.dtype)
            part = y[:, factor.columns]
            part[rows] += share


def apply() -> None:
    """Make the CPU platform use the grouped wrapper, and tell it when a slot gets another adapter."""
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.platforms.cpu import CpuPlatform

    require(CpuPlatform, "get_punica_wrapper", ())
    CpuPlatform.get_punica_wrapper = classmethod(lambda _cls: WRAPPER)
    activate = require(LoRAModelManager, "activate_adapter", ("self", "lora_id"))

    def activate_adapter(self: Any, lora_id: int) -> Any:
        activated = activate(self, lora_id)
        if activated:
            slot = self.lora_index_to_id.index(lora_id)
            for wrapper in self.punica_wrapper_mapping.values():
                wrapper.forget_slot(slot)
        return activated

    LoRAModelManager.activate_adapter = activate_adapter
