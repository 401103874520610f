"""What a running engine is, as reports name it: from its own configuration, which flags may have changed."""

from pathlib import Path
from typing import Any

from lorecall.adapters.bases.prepare import QUANTIZE, BaseManifest, read_base_manifest
from lorecall.adapters.core.errors import BaseModelError
from lorecall.audit.scorer import EngineInfo
from lorecall.audit.scorers.sampling import deployed_sampling

COMPRESSED = "compressed-tensors"
"""vLLM's name of the format of the schemes that `lorecall base prepare` makes."""


def describe_engine(model: str, base: str, vllm_config: Any, *, note: str = "") -> EngineInfo:
    """Return the description of a running engine and its base; its ε is not measured yet.

    Args:
        model: The base's directory, or its hub id.
        base: The name that it is served under.
        vllm_config: The configuration that the engine runs with.
        note: What stands after vLLM's version; empty for the kind of device.
    """
    import vllm

    config, kind = vllm_config.model_config, vllm_config.device_config.device_type
    try:
        manifest = read_base_manifest(Path(model))
    except (BaseModelError, OSError):
        manifest = None  # a base that was not prepared by lorecall
    dtype = str(config.dtype).removeprefix("torch.")
    cached = str(vllm_config.cache_config.cache_dtype)
    sampling, penalties = deployed_sampling(config.get_diff_sampling_param())
    return EngineInfo(
        engine=f"vllm {vllm.__version__} ({note or ('cpu' if kind == 'cpu' else 'gpu')})",
        base=base,
        base_digest=manifest.digest if manifest else "",
        scheme=running_scheme(config.quantization, manifest),
        sampling=sampling,
        penalties=penalties,
        device=device_name(kind),
        dtype=dtype,
        kv_cache_dtype=dtype if cached == "auto" else cached,
    )


def running_scheme(quantization: str | None, manifest: BaseManifest | None) -> str:
    """Return the scheme that the engine computes in: vLLM's method, or the manifest's more exact name of it.

    `--quantization fp8` quantises an unquantised base as it is loaded, and its manifest says "none".
    """
    none = QUANTIZE["none"]
    if quantization is None:
        return none
    if manifest is not None and manifest.scheme != none and quantization == COMPRESSED:
        return manifest.scheme
    return quantization


def device_name(kind: str) -> str:
    """Return the name of this platform's first device, with its compute capability where it has one."""
    from vllm.platforms import current_platform

    if kind == "cpu":
        return kind
    capability = current_platform.get_device_capability()
    generation = f" (sm_{capability.to_int()})" if capability is not None else ""
    return f"{kind} {current_platform.get_device_name()}{generation}"
