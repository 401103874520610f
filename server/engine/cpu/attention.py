"""Attention in a compiled model on a CPU, without Python around each layer's call.

vLLM 0.32 has two operators in Python for a layer: one writes its keys and values, the other attends. They took a
fifth of a decode step of one request, most of it not in their kernels. Here a layer is one operator in C++ that
calls the same kernels; what they need to know of a step, it is told before the first layer.

It is for the layers of plain decoders. Other layers, and models that are not compiled, have vLLM's own operators.
"""

import weakref
from functools import cache
from typing import Any

import torch
from lorecall.server.engine.common.plugin import require, require_fields
from lorecall.server.engine.cpu.compiled import load_operators
from torch.library import Library

OPERATORS = Library("lorecall", "FRAGMENT")  # lives as long as its operators do

_layers: list[weakref.ref[Any]] = []
"""The layers by the numbers that stand in a compiled model; those of engines that are gone, too."""


def numbered() -> list[str]:
    """Return the layers as they stand in a compiled model."""
    layers = ((number, found()) for number, found in enumerate(_layers))
    return [f"attention {number} {layer.layer_name}" for number, layer in layers if layer is not None]


def apply() -> None:
    """Number vLLM's attention layers, and have compiled models call the operator."""
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.layers.attention import Attention
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadata

    parameters = ("self", "query", "key", "value", "output_shape", "output_dtype")
    upstream, init = require(Attention, "forward", parameters), Attention.__init__
    require_fields(CPUAttentionMetadata, "num_actual_tokens", "scheduler_metadata", "dynamic_causal")

    def init_and_number(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        number_layer(self, get_current_vllm_config())

    def forward(
        self: Any,
        query: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        output_shape: torch.Size | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        if self.lorecall_number is None or output_shape is not None or not torch.compiler.is_compiling():
            return upstream(self, query, key, value, output_shape, output_dtype)
        assert key is not None  # noqa: S101  (for the type checker: only layers that share a cache have none)
        assert value is not None  # noqa: S101
        return attend(self, query, key, value, output_dtype or query.dtype)

    load_kernel()
    Attention.__init__ = init_and_number
    Attention.forward = forward


@cache
def load_kernel() -> None:
    """Define the operators, below `torch.ops.lorecall`."""
    from vllm.utils.torch_utils import direct_register_custom_op

    load_operators("attention")
    torch.library.register_fake("lorecall::attend", lambda _query, _key, _value, _output, _layer: None)
    direct_register_custom_op("begin", _begin, ["output"], lambda _output, _first: None, OPERATORS, "CPU")


def number_layer(layer: Any, config: Any) -> None:
    """Give a new layer of the model of vLLM's `config` its number; None to one that the operator is not for."""
    layer.lorecall_number = None
    if _is_plain(layer, config):
        layer.lorecall_number = layer.lorecall_first = len(_layers)
        layer.lorecall_model = config.compilation_config.static_forward_context  # its layers share it
        layer.lorecall_known_cache = None
        before = _layers[-1]() if _layers else None
        if before is not None and before.lorecall_model is layer.lorecall_model:
            layer.lorecall_first = before.lorecall_first
        _layers.append(weakref.ref(layer))


def _is_plain(layer: Any, config: Any) -> bool:
    """Whether a layer attends to the keys and values that it writes, and vLLM's kernels for CPUs do it."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    impl = layer.impl
    return (
        type(impl) is CPUAttentionBackendImpl
        and impl.attn_type == "decoder"
        and impl.kv_sharing_target_layer_name is None
        and impl.alibi_slopes is None
        and impl.sinks is None
        and not impl.is_fp8_kv_cache
        and config.kv_transfer_config is None
        and config.speculative_config is None
    )


def attend(
    layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Write `key` and `value` [tokens, KV heads x head size], and return what a numbered layer makes of `query`.

    That and `query` are [tokens, heads x head size].
    """
    heads, kv_heads, size, size_v = layer.num_heads, layer.num_kv_heads, layer.head_size, layer.head_size_v
    output = torch.empty((query.shape[0], heads * size_v), dtype=dtype, device=query.device)
    if layer.lorecall_number == layer.lorecall_first:
        torch.ops.lorecall.begin(output, layer.lorecall_first)
    torch.ops.lorecall.attend(
        query.view(-1, heads, size),
        key.view(-1, kv_heads, size),
        value.view(-1, kv_heads, size_v),
        output.view(-1, heads, size_v),
        layer.lorecall_number,
    )
    return output


def _begin(output: torch.Tensor, first: int) -> None:
    """Tell the layers' operator of a step, and of new caches; `output` is here to have this come first."""
    from vllm.forward_context import get_forward_context

    del output
    context = get_forward_context()
    torch.ops.lorecall.begin_attention(first)
    if context.attn_metadata is None:  # vLLM runs the model without requests
        return
    groups: dict[int, str] = {}  # one layer of each, by their metadata
    for found in _layers[first:]:
        layer = found()
        if layer is None or layer.lorecall_first != first:
            break
        group = id(context.attn_metadata[layer.layer_name])
        groups.setdefault(group, layer.layer_name)
        if layer.lorecall_known_cache is not layer.kv_cache:
            layer.lorecall_known_cache = layer.kv_cache
            _set_layer(layer, list(groups).index(group))
    for name in groups.values():
        step = context.attn_metadata[name]
        torch.ops.lorecall.add_attention_group(
            step.query_start_loc,
            step.seq_lens,
            step.block_table,
            step.scheduler_metadata,
            context.slot_mapping[name],
            step.dynamic_causal,
            step.causal,
            step.num_actual_tokens,
        )


def _set_layer(layer: Any, group: int) -> None:
    blocks, heads, tokens, _ = layer.kv_cache.shape
    keys, values = layer.kv_cache.view(blocks, heads, 2 * tokens, -1).chunk(2, dim=2)
    impl = layer.impl
    torch.ops.lorecall.set_attention_layer(
        layer.lorecall_number,
        keys,
        values,
        group,
        impl.scale,
        float(impl.logits_soft_cap),
        layer._k_scale_float,
        layer._v_scale_float,
        impl.sliding_window,
        layer.isa,
        impl.kv_cache_dtype,
    )
