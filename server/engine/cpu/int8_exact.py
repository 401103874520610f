"""Exact W8A8 products on CPUs without VNNI, where oneDNN's INT8 products saturate and are slow at few rows.

Without VNNI oneDNN adds pairs of products in 16 bits. Sums that do not fit saturate, and the outputs of a real
layer are wrong by as much as their own size. vLLM 0.32 serves these numbers, at 8 tokens a second where float32
gives 20. Where a probe finds that oneDNN saturates, W8A8 layers use exact products instead (`int8_kernel.cpp`).
"""

import functools
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lorecall.adapters.core.errors import UsageError
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.cpu.compiled import load_operators
from lorecall.server.settings import read_settings

PROBE = 64
"""Width of the probe's product; its factors are all 127, so that pairs of products overflow 16 bits."""


OUTPUTS = 16
"""Outputs of a tile, as in the kernel."""


@dataclass(frozen=True, slots=True)
class ExactWeight:
    """One layer's weight in the kernel's layout.

    Attributes:
        tiles: int8, as `pack` returns it.
        scale: One float32 per output, padded to whole tiles.
        d_out: Columns of the outputs.
        number: That the kernel knows it by: the count of those before it.
    """

    tiles: npt.NDArray[Any]
    scale: npt.NDArray[Any]
    d_out: int
    number: int


_weights: list[ExactWeight] = []
"""All that the kernel knows, by their numbers: it reads their arrays."""


def pack(weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return int8 `weight` [d_out, d_in] as tiles, padded with zeros: [tiles, pairs of d_in, OUTPUTS, 2]."""
    d_out, d_in = weight.shape
    tiles, pairs = -(-d_out // OUTPUTS), -(-d_in // 2)
    padded = np.zeros((tiles * OUTPUTS, 2 * pairs), np.int8)
    padded[:d_out, :d_in] = weight
    return np.ascontiguousarray(padded.reshape(tiles, OUTPUTS, pairs, 2).transpose(0, 2, 1, 3))


@functools.cache
def load_kernel() -> None:
    """Define the kernel's operators, below `torch.ops.lorecall`."""

    def product_shape(x: torch.Tensor, weight: int, _bias: torch.Tensor | None) -> torch.Tensor:
        return x.new_empty(*x.shape[:-1], _weights[weight].d_out)

    load_operators("int8_kernel")
    torch.library.register_fake("lorecall::int8_product", product_shape)


def pack_weight(weight: torch.Tensor, scale: torch.Tensor) -> ExactWeight:
    """Pack an int8 `weight` [d_out, d_in] with one scale per output, float32 [d_out], for the process's life."""
    load_kernel()
    d_out, d_in = weight.shape
    tiles = pack(weight.numpy())
    padded = np.zeros(len(tiles) * OUTPUTS, np.float32)
    padded[:d_out] = scale.numpy()
    number = torch.ops.lorecall.add_int8_weight(tiles.ctypes.data, padded.ctypes.data, d_in, d_out)
    _weights.append(ExactWeight(tiles, padded, d_out, number))
    return _weights[-1]


@functools.cache
def onednn_is_exact() -> bool:
    """Multiply the largest int8 numbers through oneDNN, and return whether the result is right."""
    from vllm import _custom_ops as ops

    weight = torch.full((PROBE, PROBE), 127, dtype=torch.int8)
    # a base in bfloat16 is loaded with bfloat16 as torch's default dtype
    weight_scale = torch.ones(PROBE, 1, dtype=torch.float32)  # the handler keeps only its address
    handler = ops.create_onednn_scaled_mm(weight.t(), weight_scale, torch.float32, True, False, 1)
    quantised, scale, _ = ops.onednn_scaled_int8_quant(torch.full((1, PROBE), 127.0, dtype=torch.float32))
    out = torch.empty(1, PROBE, dtype=torch.float32)
    ops.onednn_scaled_mm(handler, quantised, out, scale, None, None, None)
    return bool(torch.allclose(out, torch.full_like(out, PROBE * 127.0 * 127.0), rtol=1e-3))


def apply() -> None:
    """Patch vLLM's INT8 CPU kernel."""
    from vllm.model_executor.kernels.linear.scaled_mm.cpu import CPUInt8ScaledMMLinearKernel as Kernel

    pack = require(Kernel, "process_weights_for_onednn", ("self", "layer"))
    multiply = require(Kernel, "_apply_weights_onednn", ("self", "layer", "x", "bias"))

    def process_weights_for_onednn(self: Any, layer: Any) -> None:
        self._exact = None
        weight_name, scale_name, *_ = self.layer_param_names
        dynamic = self.config.input_symmetric and not self.config.is_static_input_scheme
        if not dynamic or not use_exact():
            pack(self, layer)
            return
        weight = getattr(layer, weight_name).data
        pack(self, layer)
        scale = getattr(layer, scale_name).data.float().flatten()
        if len(scale) == len(weight):  # one scale per output channel
            self._exact = pack_weight(weight, scale)

    def apply_weights(self: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        if self._exact is None:
            return multiply(self, layer, x, bias)
        return exact_product(x, self._exact, bias)

    Kernel.process_weights_for_onednn = process_weights_for_onednn
    Kernel._apply_weights_onednn = apply_weights


def use_exact() -> bool:
    """Return whether to use our products, by LORECALL_INT8_KERNEL or by the probe.

    Raises:
        UsageError: They are asked for on a CPU that is not x86-64.
    """
    asked, ours = read_settings().int8_kernel, platform.machine() == "x86_64"
    if asked == "exact" and not ours:
        raise UsageError(
            f"LORECALL_INT8_KERNEL=exact is for x86-64, this is {platform.machine()}",
            hint="leave it out",
            param="LORECALL_INT8_KERNEL",
        )
    return asked == "exact" or (asked == "auto" and ours and not onednn_is_exact())


def exact_product(x: torch.Tensor, weight: ExactWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the W8A8 product of `x` [..., d_in] with `weight`: shape [..., d_out].

    The activations are rounded as by vLLM's own kernel, one scale per row. Exactness is of the whole numbers.
    """
    return torch.ops.lorecall.int8_product(x, weight.number, bias)
