"""Reads the output matrix in bfloat16 where that is exact, as for models that were trained in it.

A CPU decodes one answer as fast as it reads weights, and in float32 the output matrix of a small model is nearly
half of them. A matrix whose numbers are all bfloat16 is packed as such, beside the one that looks up the
inputs. Inputs, products and sums are float32 as before.
"""

from collections.abc import Callable
from typing import Any

import torch
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.cpu.module_factors import BLOCK, load_kernel

FEW_ROWS = 16
"""On more rows oneDNN is as fast: a product takes its time, and no longer its reading."""

Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def pack_matrix(weight: torch.Tensor) -> torch.Tensor | None:
    """Return a float32 `weight` [d_out, d_in] in the kernel's layout, or None where bfloat16 would round it.

    The layout is bfloat16 [blocks, d_in / 2, BLOCK, 2]; missing outputs of the last block are zeros.
    """
    d_out, d_in = weight.shape
    packed = weight.bfloat16()
    if weight.dtype != torch.float32 or d_in % 2 or not torch.equal(packed.float(), weight):
        return None
    padded = torch.nn.functional.pad(packed, (0, 0, 0, -d_out % BLOCK))
    return padded.reshape(-1, BLOCK, d_in // 2, 2).transpose(1, 2).contiguous()


def multiply(x: torch.Tensor, packed: torch.Tensor, d_out: int) -> torch.Tensor:
    """Return the product of float32 `x` [rows, d_in] with a packed matrix: [rows, d_out]."""
    load_kernel()
    y = x.new_zeros(len(x), packed.shape[0] * BLOCK)
    torch.ops.lorecall.add_product(y, x, packed)
    return y[:, :d_out]


def few_rows(many: Linear) -> Linear:
    """Return `many` with another product for few rows; the matrix is packed when it is first asked for."""
    packed: list[torch.Tensor | None] = []

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if x.dim() == 2 and len(x) <= FEW_ROWS and bias is None and x.dtype == torch.float32:
            if not packed:
                packed.append(pack_matrix(weight.detach()))
            if packed[0] is not None:
                return multiply(x, packed[0], len(weight))
        return many(x, weight, bias)

    return linear


def apply() -> None:
    """Patch the product of vLLM's output matrices that are not quantised."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    load = require(UnquantizedEmbeddingMethod, "process_weights_after_loading", ("self", "layer"))

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        load(self, layer)
        layer.cpu_linear = few_rows(layer.cpu_linear)

    UnquantizedEmbeddingMethod.process_weights_after_loading = process_weights_after_loading
