"""Lets `torch.compile` have models with adapters on a CPU, as it has those without.

A third of a decode step is Python otherwise, and a norm or an activation is several passes over memory. vLLM
0.32 runs models with adapters eagerly, because its own CPU kernels for adapters cannot be traced. Here, what an
adapter adds is an operator that a compiled model calls without looking into it.
"""

from typing import Any

import torch
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.cpu.attention import OPERATORS, numbered
from lorecall.server.engine.cpu.compiled import processor
from lorecall.server.settings import read_settings

_layers: list[Any] = []
"""The layers with adapters, by the numbers that stand in a compiled model: alike for the same configuration."""


def apply() -> None:
    """Compile models with adapters where vLLM compiles those without, and load what was compiled before."""
    _number_layers()
    _call_operators()
    _keep_mode()
    _load_plain_functions()
    _tell_apart()


def _number_layers() -> None:
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

    set_mapping = require(BaseLayerWithLoRA, "set_mapping", ("self", "punica_wrapper"))

    def set_and_number(self: Any, punica_wrapper: Any) -> None:
        set_mapping(self, punica_wrapper)
        self.lorecall_number = len(_layers)
        _layers.append(self)
        if isinstance(self, BaseLinearLayerWithLoRA):
            module = punica_wrapper.factors(self.lora_a_stacked, self.lora_b_stacked)
            addresses = (module.record.ctypes.data, punica_wrapper.step.ctypes.data)
            torch.ops.lorecall.set_layer(self.lorecall_number, *addresses)

    BaseLayerWithLoRA.set_mapping = set_and_number


def _call_operators() -> None:
    """Make what adapters add to linear layers and embeddings operators, one of C++ and one of Python."""
    from vllm.lora.layers import VocabParallelEmbeddingWithLoRA
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.utils.torch_utils import direct_register_custom_op

    require(BaseLinearLayerWithLoRA, "_apply_lora_to_output", ("self", "x", "output"))
    embedding = require(VocabParallelEmbeddingWithLoRA, "forward", ("self", "x"))

    def embed(ids: torch.Tensor, layer: int) -> torch.Tensor:
        return embedding(_layers[layer], ids)

    def embedded(ids: torch.Tensor, layer: int) -> torch.Tensor:
        weight = _layers[layer].base_layer.weight
        return ids.new_empty((*ids.shape, weight.shape[1]), dtype=weight.dtype)

    def apply_lora(self: Any, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        torch.ops.lorecall.add_lora(output, x, self.lorecall_number)
        return output

    def forward(self: Any, x: torch.Tensor) -> Any:
        if not torch.compiler.is_compiling():
            return embedding(self, x)
        return torch.ops.lorecall.embed(x, self.lorecall_number)

    direct_register_custom_op("embed", embed, None, embedded, OPERATORS, "CPU")
    BaseLinearLayerWithLoRA._apply_lora_to_output = apply_lora
    VocabParallelEmbeddingWithLoRA.forward = forward


def _keep_mode() -> None:
    """Keep the mode that vLLM takes back where there are adapters, and have C++ call a compiled model's parts.

    Inductor's C++ cannot hand over vLLM's `LayerName` objects, so they are strings: `prepare_environment`.
    """
    from vllm.config import CompilationMode
    from vllm.platforms.cpu import CpuPlatform
    from vllm.utils.torch_utils import LayerNameType

    check = require(CpuPlatform, "check_and_update_config", ("vllm_config",))

    def check_and_update_config(_cls: Any, vllm_config: Any) -> None:
        compilation = vllm_config.compilation_config
        compiled = compilation.mode in (CompilationMode.VLLM_COMPILE, CompilationMode.DYNAMO_TRACE_ONCE)
        check(vllm_config)
        if compiled and vllm_config.lora_config is not None:
            compilation.mode = CompilationMode.DYNAMO_TRACE_ONCE
        if LayerNameType is str:
            compilation.inductor_compile_config.setdefault("cpp_wrapper", True)

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def _load_plain_functions() -> None:
    """Have vLLM take from its cache a compiled model that is a plain function, as inductor's are.

    vLLM 0.32 asks all that it loads for `finalize_loading`, which only its own backend has, and compiles anew.
    """
    load = require(torch.compiler, "load_compiled_function", ("file",))

    def load_compiled_function(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        compiled = loaded._artifacts.compiled_fn
        if not hasattr(compiled, "finalize_loading"):
            compiled.finalize_loading = lambda _vllm_config: None
        return loaded

    torch.compiler.load_compiled_function = load_compiled_function


def _tell_apart() -> None:
    """Have vLLM's cache tell apart what stands in a compiled model: layers, INT8 products, the processor."""
    from vllm.compilation import caching

    factors = require(caching, "aot_compile_hash_factors", ("vllm_config",))

    def with_ours(vllm_config: Any) -> list[str]:
        layers = (f"{type(layer).__name__} {getattr(layer, 'layer_name', '')}" for layer in _layers)
        return [*factors(vllm_config), *layers, *numbered(), read_settings().int8_kernel, processor()]

    caching.aot_compile_hash_factors = with_ours
