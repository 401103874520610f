"""Quantise a base model in standard formats, through the API of compressed-tensors.

Three schemes, all round-to-nearest (data-free), with `lm_head` left as it is:

- ``int8-w8a8``: symmetric int8 weights with one scale per output channel; activations quantised to symmetric
  int8 at run time with one scale per token.
- ``fp8-w8a8``: float8 (e4m3) weights with one scale per output channel; activations are rounded to float8 at run
  time with one scale per token.
- ``int4-w4a16``: symmetric int4 weights with one scale per group of input channels, packed eight to an int32;
  activations stay in floating point.

The experts of a mixture and its routers stay as they are too, and the configuration lists them under ``ignore``:
they are no linear layers in transformers, and the engine takes every matrix that is not listed for a quantised
one.
"""

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lorecall.adapters.core.errors import BaseModelError
from lorecall.adapters.peft_format.safetensors_header import read_header

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

NONE = "none"
INT8 = "int8-w8a8"
INT4 = "int4-w4a16"
FP8 = "fp8-w8a8"
SCHEMES = (NONE, INT8, INT4, FP8)
UNQUANTIZED = ("re:.*lm_head$", r"re:.*\.(gate|router|shared_expert_gate)$")
"""Linear layers that stay in floating point, as the engine has them: the output layer and routers."""
GROUP_SIZES = (128, 64, 32)  # supported by every vLLM W4A16 kernel; the largest (fewest scales) first


def group_size(widths: set[int]) -> int:
    """Return the largest usable W4A16 group size that divides every input width.

    Args:
        widths: Input widths of the linear layers to quantise.

    Raises:
        BaseModelError: No usable group size divides them all.
    """
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    odd = sorted(width for width in widths if width % GROUP_SIZES[-1])
    raise BaseModelError(
        f"int4 needs input widths that are multiples of {GROUP_SIZES[-1]}, this model has {odd}",
        hint="use --quantize int8 or none",
        param="quantize",
    )


def quantize_model(
    model: "nn.Module", scheme: str, on_module: Callable[[int, int], None] | None = None
) -> Any:
    """Quantise and compress every linear layer but those of `UNQUANTIZED`, in place.

    Args:
        model: A transformers causal language model with floating-point weights.
        scheme: ``int8-w8a8``, ``int4-w4a16`` or ``fp8-w8a8``.
        on_module: Called with (layers done, layers in all) after each layer.

    Returns:
        The compressed-tensors `ModelCompressor`, which writes the `quantization_config`.

    Raises:
        BaseModelError: The model has no linear layer to quantise, or its widths do not fit the scheme.
    """
    from compressed_tensors.compressors import ModelCompressor, compress_module  # noqa: PLC0415
    from compressed_tensors.quantization import (  # noqa: PLC0415
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import is_module_quantized  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    widths = {
        module.in_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(_matches(name, left) for left in UNQUANTIZED)
    }
    if not widths:
        raise BaseModelError(
            f"{type(model).__name__} has no linear layers: nothing to quantise, nor for a LoRA to adapt",
            hint="docs/models.md lists the families that are tested",
            param="from",
        )
    config = QuantizationConfig(config_groups={"group_0": _scheme(scheme, widths)}, ignore=list(UNQUANTIZED))
    apply_quantization_config(model, config)
    modules = [module for module in model.modules() if is_module_quantized(module)]
    for module in modules:
        _set_weight_scale(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    for done, module in enumerate(modules, start=1):
        compress_module(module)
        if on_module is not None:
            on_module(done, len(modules))
    compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    return compressor


def save_model(
    model: Any, scheme: str, out: "Path", on_module: Callable[[int, int], None] | None = None
) -> None:
    """Quantise `model` by `scheme` (a member of `SCHEMES`) and save it as a Hugging Face model directory.

    Args:
        model: A transformers causal language model; quantised in place.
        scheme: What to quantise to; ``none`` saves the weights as they are.
        out: An existing directory.
        on_module: As for `quantize_model`.
    """
    compressor = None if scheme == NONE else quantize_model(model, scheme, on_module)
    model.save_pretrained(out)
    if compressor is not None:
        ignored = [*compressor.quantization_config.ignore, *left_float(out)]
        compressor.quantization_config.ignore = sorted(set(ignored))
        compressor.update_config(str(out))


def parameter_count(directory: "Path") -> int:
    """Return how many parameters a model directory in a scheme of `SCHEMES` has; scales are counted with them."""
    count = 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            for tensor in read_header(file, path.name):
                packed = 8 if tensor.name.endswith(".weight_packed") else 1  # int4, eight to an int32
                count += packed * math.prod(tensor.shape)
    return count


def left_float(directory: "Path") -> list[str]:
    """Return the names of the matrices that a quantised model directory keeps in floating point, as patterns.

    Embeddings and `lm_head` are left out. The number of a layer or of an expert stands for every number where
    that names no quantised matrix. The form is that of ``ignore`` in compressed-tensors, "re:" and an expression.
    """
    quantised, plain = set(), {}
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            for tensor in read_header(file, path.name):
                module, _, kind = tensor.name.rpartition(".")
                if kind == "weight_scale":
                    quantised.add(module)
                elif len(tensor.shape) >= 2 and ".layers." in module and not kind.startswith("weight_"):
                    plain[module] = "" if kind == "weight" else r"(\..*)?"  # the engine numbers fused experts
    found = set()
    for module, rest in plain.items():
        if module in quantised:
            continue
        wide = "re:" + re.sub(r"(?<=\.)\d+(?=\\\.)", r"\\d+", re.escape(module)) + rest + "$"
        exact = "re:" + re.escape(module) + rest + "$"
        found.add(exact if any(_matches(name, wide) for name in quantised) else wide)
    return sorted(found)


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern in the form of compressed-tensors ("re:...") names a module."""
    return re.match(pattern.removeprefix("re:"), name) is not None


def _scheme(name: str, widths: set[int]) -> Any:
    """Return the compressed-tensors scheme of that name for all linear layers."""
    from compressed_tensors.quantization import (  # noqa: PLC0415
        QuantizationArgs,
        QuantizationScheme,
        preset_name_to_scheme,
    )

    if name == INT8:
        return preset_name_to_scheme("W8A8", ["Linear"])
    if name == FP8:
        return preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])
    if name == INT4:
        weights = QuantizationArgs(
            num_bits=4, symmetric=True, strategy="group", group_size=group_size(widths)
        )
        return QuantizationScheme(targets=["Linear"], weights=weights)
    raise BaseModelError(f"unknown scheme {name!r}", hint=f"one of {', '.join(SCHEMES)}", param="quantize")


def _set_weight_scale(module: Any) -> None:
    """Set a layer's weight scales from the extremes of each channel or group (round-to-nearest)."""
    from compressed_tensors.quantization.utils import calculate_qparams  # noqa: PLC0415

    args = module.quantization_scheme.weights
    weight = module.weight.detach()
    groups = weight.unflatten(-1, (-1, args.group_size)) if args.group_size else weight.unsqueeze(-2)
    scale, _zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    module.weight_scale.data.copy_(scale)
