"""W8A8 on a CPU without VNNI, exactly: there oneDNN's INT8 products saturate, and are slow at few rows.

Without VNNI oneDNN adds pairs of products in 16 bits; where a sum does not fit it is cut off, and the outputs of
a real layer are off by as much as their own size. vLLM 0.32 serves these numbers, at 8 tokens a second where
float32 gives 20. Where a probe finds that oneDNN cuts off, W8A8 layers go through exact products instead: few
rows through a compiled kernel (`int8_kernel.py`), many as a float32 product of the same whole numbers.
"""

import functools
from typing import Any

import torch
from lorecall.server.engine.plugin import require
from lorecall.server.settings import read_settings

FEW_ROWS = 32
"""Rows up to which the compiled kernel is the faster one."""

PROBE = 64
"""Width of the probing product: PROBE x 127 x 127, in pairs far over 16 bits."""


@functools.cache
def onednn_is_exact() -> bool:
    """Multiply the largest int8 numbers through oneDNN, and return whether the result is right."""
    from vllm import _custom_ops as ops

    weight = torch.full((PROBE, PROBE), 127, dtype=torch.int8)
    # a base in bfloat16 is loaded with that as the default dtype
    weight_scale = torch.ones(PROBE, 1, dtype=torch.float32)  # the handler points at it
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
        weight = getattr(layer, weight_name).data.contiguous().clone()
        pack(self, layer)
        scale = getattr(layer, scale_name).data.float().flatten().contiguous()
        if len(scale) == len(weight):  # one scale per output channel
            self._exact = (weight, scale)

    def apply_weights(self: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        if self._exact is None:
            return multiply(self, layer, x, bias)
        weight, scale = self._exact
        return exact_product(x, weight, scale, bias)

    Kernel.process_weights_for_onednn = process_weights_for_onednn
    Kernel._apply_weights_onednn = apply_weights


def use_exact() -> bool:
    """Return whether our products are to be used: LORECALL_INT8_KERNEL, or what the probe finds."""
    asked = read_settings().int8_kernel
    return asked == "exact" or (asked == "auto" and not onednn_is_exact())


def exact_product(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the W8A8 product of `x` [..., d_in] with `weight` [d_out, d_in]: shape [..., d_out].

    The activations are rounded by vLLM's own kernel, one scale per row. A sum of d_in products of int8 numbers
    is below 2^24 for 1,040 columns; beyond, float32 rounds it by less than one part in 10^7.
    """
    from vllm import _custom_ops as ops

    flat = x.reshape(-1, x.shape[-1]).contiguous()
    quantised, x_scale, _ = ops.onednn_scaled_int8_quant(flat)
    whole = quantised.float()
    if len(flat) <= FEW_ROWS:
        from lorecall.server.engine.int8_kernel import int8_product

        out = torch.empty(len(flat), len(weight), dtype=torch.float32)
        int8_product(whole.numpy(), weight.numpy(), x_scale.flatten().numpy(), scale.numpy(), out.numpy())
    else:
        out = torch.nn.functional.linear(whole, weight.float()).mul_(x_scale).mul_(scale)
    if bias is not None:
        out += bias
    return out.to(x.dtype).reshape(*x.shape[:-1], len(weight))
