"""Load a prepared base in PyTorch with the engine's arithmetic: adapters are trained against it.

The weights are dequantised. For W8A8 each quantised layer also rounds its input as the engine's kernel does
(symmetric int8 or float8, one scale per token); the gradient ignores the rounding. Adapters get the unrounded
input, as in vLLM.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.bases.quantize import FP8, INT8, NONE, SCHEMES
from lorecall.adapters.core.errors import BaseModelError

if TYPE_CHECKING:
    import torch

INT8_MAX = 127
FP8_MAX = 448  # of float8 e4m3
SEES_ONE_MORE = ("cohere2", "cohere2_moe")
"""Model types whose sliding layers see `sliding_window` tokens and the present one in vLLM, as they were trained;
in transformers they see one less."""


def load_served_model(base: Path) -> Any:
    """Load a prepared base as a float32 transformers model with the engine's arithmetic, in evaluation mode.

    Args:
        base: A directory made by `prepare_base`.

    Raises:
        BaseModelError: It is no prepared base, or its scheme is not implemented here in PyTorch.
    """
    manifest = read_base_manifest(base)
    if manifest.scheme not in SCHEMES:
        raise BaseModelError(
            f"{base} is quantised by {manifest.scheme!r}, which cannot be trained against here",
            hint=f"prepare it from unquantised weights as one of {', '.join(SCHEMES)}",
            param="base",
        )
    import torch  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    try:
        config = AutoConfig.from_pretrained(base)
        if manifest.scheme != NONE:
            config.quantization_config["dequantize"] = True
        if config.model_type in SEES_ONE_MORE:
            config.sliding_window += 1
        with _float_experts():
            model, info = AutoModelForCausalLM.from_pretrained(
                base, config=config, dtype=torch.float32, output_loading_info=True, **_attention(config)
            )
    except (ValueError, OSError, ImportError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise BaseModelError(
            f"transformers cannot read {base}: {error}", hint="prepare it again with --force", param="base"
        ) from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:5])
        raise BaseModelError(f"{base} lacks weights: {missing}", hint="prepare it again with --force")
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None:
            continue
        del module.forward  # the simulation of compressed-tensors has no gradient
        del module.quantization_scheme
        if scheme.input_activations is not None:
            module.register_forward_pre_hook(_round_to_fp8 if manifest.scheme == FP8 else _round_input)
    model.requires_grad_(requires_grad=False)
    return model.eval()


@contextmanager
def _float_experts() -> Iterator[None]:
    """Load the experts of a mixture as they are stored, in floating point.

    transformers 5.19 takes the experts of every compressed-tensors base for packed ones, also those that its
    configuration lists under `ignore`, and would fill in random numbers; those of Llama 4 it takes apart.
    """
    from transformers.quantizers.quantizer_compressed_tensors import (  # noqa: PLC0415
        CompressedTensorsHfQuantizer as Quantizer,
    )

    upstream = Quantizer.update_weight_conversions, Quantizer._convert_model_for_quantization  # noqa: SLF001
    Quantizer.update_weight_conversions = lambda _self, conversions: conversions
    Quantizer._convert_model_for_quantization = lambda _self, _model: None  # noqa: SLF001
    try:
        yield
    finally:
        Quantizer.update_weight_conversions, Quantizer._convert_model_for_quantization = upstream  # noqa: SLF001


def rounds_activations(scheme: str) -> bool:
    """Return whether layers of a base in `scheme` round their input."""
    return scheme in (INT8, FP8)


def round_per_token(x: "torch.Tensor") -> "torch.Tensor":
    """Return `x` (..., width) rounded to 8-bit integers times one scale per token: scale = max|x| / 127.

    The gradient is that of the identity (straight-through estimator, Bengio et al. 2013).
    """
    detached = x.detach()
    scale = detached.abs().amax(-1, keepdim=True).clamp_min(1e-12) / INT8_MAX
    rounded = (detached / scale).round_().mul_(scale)
    return x + (rounded - detached) if x.requires_grad else rounded


def round_to_fp8(x: "torch.Tensor") -> "torch.Tensor":
    """Return `x` (..., width) rounded to float8 e4m3 times one scale per token: scale = max|x| / 448.

    The gradient is that of the identity, as in `round_per_token`.
    """
    import torch  # noqa: PLC0415

    detached = x.detach()
    scale = detached.abs().amax(-1, keepdim=True).clamp_min(1e-12) / FP8_MAX
    return x + ((detached / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale - detached)


def _round_to_fp8(_module: Any, args: tuple["torch.Tensor"]) -> tuple["torch.Tensor"]:
    """Forward pre-hook of a layer with dynamic per-token float8 activations."""
    return (round_to_fp8(args[0]),)


def _attention(config: Any) -> dict[str, str]:
    """Return the choice of attention: PyTorch's fused one, the default, leaves out a cap on logits (Gemma 2)."""
    return {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}


def _round_input(_module: Any, args: tuple["torch.Tensor"]) -> tuple["torch.Tensor"]:
    """Forward pre-hook of a layer with dynamic per-token int8 activations."""
    return (round_per_token(args[0]),)
