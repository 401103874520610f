"""What reports say of the engine comes from what runs, not from what was once prepared."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lorecall.adapters.bases.prepare import BaseManifest
from lorecall.server.engine.start import running
from lorecall.server.engine.start.running import describe_engine, running_scheme
from vllm import platforms
from vllm.platforms.interface import DeviceCapability


def manifest(scheme: str) -> BaseManifest:
    """Return the manifest of a base in a scheme."""
    return BaseManifest("base", "source", "", scheme, "", "float32", "d" * 64)


@pytest.mark.parametrize(
    ("quantization", "prepared", "scheme"),
    [
        (None, "none", "none"),
        (None, None, "none"),
        ("compressed-tensors", "int8-w8a8", "int8-w8a8"),
        ("compressed-tensors", None, "compressed-tensors"),
        ("fp8", "none", "fp8"),
        ("awq_marlin", "awq", "awq_marlin"),
    ],
)
def test_the_scheme_is_the_one_that_runs(quantization: str | None, prepared: str | None, scheme: str) -> None:
    """A flag may quantise what was prepared unquantised; where vLLM names a format, a manifest says more."""
    assert running_scheme(quantization, manifest(prepared) if prepared else None) == scheme


@pytest.mark.parametrize(("cache", "shown"), [("auto", "bfloat16"), ("fp8_e4m3", "fp8_e4m3")])
def test_dtypes_and_device_are_those_of_the_configuration(
    cache: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float32 manifest does not make a bfloat16 engine float32."""

    class Device:
        def get_device_capability(self) -> DeviceCapability:
            return DeviceCapability(9, 0)

        def get_device_name(self) -> str:
            return "NVIDIA H100"

    config: Any = SimpleNamespace(
        model_config=SimpleNamespace(
            dtype=torch.bfloat16, quantization="fp8", get_diff_sampling_param=lambda: {"temperature": 0.7}
        ),
        device_config=SimpleNamespace(device_type="cuda"),
        cache_config=SimpleNamespace(cache_dtype=cache),
    )
    monkeypatch.setattr(platforms, "_current_platform", Device())
    monkeypatch.setattr(running, "read_base_manifest", lambda _path: manifest("none"))
    found = describe_engine(str(tmp_path), "base", config)
    assert (found.scheme, found.dtype, found.kv_cache_dtype) == ("fp8", "bfloat16", shown)
    assert found.device == "cuda NVIDIA H100 (sm_90)"
    assert found.engine.endswith("(gpu)")
    assert found.base_digest == "d" * 64
    assert found.sampling is not None
    assert found.sampling.temperature == 0.7
    assert describe_engine(str(tmp_path), "base", config, note="offline").engine.endswith("(offline)")
