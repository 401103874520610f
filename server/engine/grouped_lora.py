"""LoRA on CPU with tokens grouped by adapter: right for mixed batches, and fast.

vLLM 0.32 gathers a copy of the adapter's matrices for every token, which takes tokens x rank x width of
memory and dies on long prompts, and it reads the index -1 (no adapter) as the last slot, so requests for the
base are answered through somebody's adapter. Here the rows of a step are split into runs of one adapter: a
long run takes two matrix products per module, and all short runs of a step one call of a compiled kernel.
Rows without an adapter are never touched.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lorecall.server.engine.module_factors import ModuleFactors
from lorecall.server.engine.row_kernel import Addresses, add_rows
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

LONG_RUN = 1024
"""Rows from which two matrix products beat the row kernel: they take twice as long for 256 rows."""

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring rows of one slot."""

    slot: int
    rows: slice


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of one step that have an adapter.

    Attributes:
        runs: The long runs.
        pairs: The rows of all short runs, two of a slot together, a last one twice, int64 [n, 2].
        slots: The slot of each pair, int64 [n].
        count: How many rows the step has, with and without an adapter.
        addresses: What the row kernel takes of the step.
    """

    runs: list[Run]
    pairs: IntArray
    slots: IntArray
    count: int
    addresses: Addresses = field(init=False)

    def __post_init__(self) -> None:
        addresses = (self.pairs.ctypes.data, self.slots.ctypes.data, len(self.slots))
        object.__setattr__(self, "addresses", addresses)


def split_rows(slots: IntArray, long_run: int = LONG_RUN) -> StepRows:
    """Split a step into runs by the slot of each row [rows]; -1 stands for no adapter."""
    edges = np.flatnonzero(np.diff(slots)) + 1
    runs, short = [], []
    for low, high in zip([0, *edges], [*edges, len(slots)], strict=True):
        if high > low and slots[low] >= 0:
            if high - low >= long_run:
                runs.append(Run(int(slots[low]), slice(int(low), int(high))))
            else:
                short.append(np.arange(low, high, dtype=np.int64))
    if not short:
        return StepRows(runs, np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64), len(slots))
    pairs, rows = [], np.concatenate(short)
    for slot in np.unique(slots[rows]):
        mine = rows[slots[rows] == slot]
        pairs.append(np.append(mine, mine[-1:] if len(mine) % 2 else mine[:0]).reshape(-1, 2))
    paired = np.concatenate(pairs)
    return StepRows(runs, paired, np.ascontiguousarray(slots[paired[:, 0]], dtype=np.int64), len(slots))


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU LoRA kernels with the products done per run of rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nothing = split_rows(np.empty(0, dtype=np.int64))
        self._token_rows = nothing
        self._sampler_rows = nothing
        self._logits_slots: IntArray | None = None
        self._modules: dict[int, ModuleFactors] = {}

    def forget_slot(self, slot: int) -> None:
        """Drop what was derived from a slot's matrices; called when an adapter moves into the slot."""
        for module in self._modules.values():
            module.stale.add(slot)

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the step's mapping of rows to slots, and split it into runs."""
        super().update_metadata(*args, **kwargs)
        self._token_rows = split_rows(self.token_lora_indices.numpy())
        self._sampler_rows = split_rows(self.sampler_indices.numpy())

    def set_logits_rows(self, slots: IntArray | None) -> None:
        """Say whose rows the next logits are: one slot per row, or one for all of them (-1: no adapter).

        None ends it: from then on logits have one row per request again.
        """
        self._logits_slots = slots

    def factors(
        self, a_stacks: tuple[torch.Tensor, ...], b_stacks: tuple[torch.Tensor, ...]
    ) -> ModuleFactors:
        """Return the packed factors of the module that owns these stacks."""
        module = self._modules.get(id(a_stacks[0]))
        if module is None:
            # the stacks live as long as their layer, and the record keeps them: the id stays theirs
            module = self._modules[id(a_stacks[0])] = ModuleFactors(a_stacks, b_stacks)
        if module.stale:
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
        step = self._token_rows
        if step.runs or len(step.slots):
            add_step(y, x, step, self.factors(lora_a_stacked, lora_b_stacked), scale)

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
        for run in split_rows(self.token_lora_indices.numpy(), long_run=1).runs:
            b = lora_b_stacked[run.slot, 0]
            share = (x[run.rows].to(b.dtype) @ b.t()).to(y.dtype)
            if add_inputs:
                y[run.rows] += share
            else:
                y[run.rows] = share


def add_step(y: torch.Tensor, x: torch.Tensor, step: StepRows, module: ModuleFactors, scale: float) -> None:
    """Add the adapters' shares of one module to `y` [rows, d_out] in place, from `x` [rows, d_in].

    Raises:
        RuntimeError: If the step speaks of rows or columns that there are not: nothing may be overwritten.
    """
    if module.idle:
        return
    (rows, d_in), (out_rows, d_out) = x.shape, y.shape
    if step.count > min(rows, out_rows) or d_in != module.d_in or d_out < module.d_out:
        raise RuntimeError(
            f"a step of {step.count} rows and a module of {module.d_in} x {module.d_out} were given inputs of "
            f"{rows} x {d_in} and outputs of {out_rows} x {d_out}"
        )
    for run in step.runs:
        _add_run(y, x, run, module, scale)
    if len(step.slots):
        _add_short_runs(y, x, step, module, scale)


def _add_short_runs(
    y: torch.Tensor, x: torch.Tensor, step: StepRows, module: ModuleFactors, scale: float
) -> None:
    plain = x.dtype == y.dtype == torch.float32 and x.is_contiguous() and y.is_contiguous()
    if plain and y.shape[1] == module.d_out:
        add_rows(x, y, step.addresses, module.dtype, module.addresses, scale)
        return
    rows, places = np.unique(step.pairs, return_inverse=True)
    mine, packed = torch.from_numpy(rows), StepRows([], places.reshape(-1, 2), step.slots, len(rows))
    share = torch.zeros(len(rows), module.d_out)
    add_rows(x[mine].float(), share, packed.addresses, module.dtype, module.addresses, scale)
    y[mine, : module.d_out] += share.to(y.dtype)


def _add_run(y: torch.Tensor, x: torch.Tensor, run: Run, module: ModuleFactors, scale: float) -> None:
    rank = int(module.ranks[run.slot])
    if not rank:
        return
    shrunk_all = x[run.rows].float() @ module.a[run.slot, :, :rank].flatten(0, 1).float().t()
    for piece, columns in enumerate(module.columns):
        shrunk = shrunk_all[:, piece * rank : (piece + 1) * rank]
        out, factor = y[run.rows, columns], module.b[run.slot, :rank, columns].float()
        if out.dtype == shrunk.dtype:
            out.addmm_(shrunk, factor, alpha=scale)
        else:
            out += (shrunk @ factor).mul_(scale).to(out.dtype)
