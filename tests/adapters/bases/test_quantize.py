"""Quantised models have the formats and the accuracy that their schemes promise."""

import json
import re
from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.bases.quantize import FP8, INT4, INT8, NONE, group_size, quantize_model
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.errors import BaseModelError
from safetensors import safe_open
from torch import nn

from tests.families.models import FAMILIES, build_source
from tests.tiny import build_tiny_base

LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny base in each scheme, of the same weights."""
    root = tmp_path_factory.mktemp("bases")
    return {scheme: build_tiny_base(root / scheme, scheme) for scheme in (NONE, INT8, INT4, FP8)}


def layout(path: Path) -> dict[str, tuple[str, list[int]]]:
    with safe_open(path / "model.safetensors", framework="pt") as weights:
        return {
            name: (weights.get_slice(name).get_dtype(), weights.get_slice(name).get_shape())
            for name in weights.keys()  # noqa: SIM118 (no mapping)
        }


def test_int8_has_a_byte_a_weight_and_a_scale_a_channel(bases: dict[str, Path]) -> None:
    """W8A8 stores int8 weights of the layer's shape, with one scale per output channel, and says so."""
    tensors = layout(bases[INT8])
    assert tensors[f"{LAYER}.weight"] == ("I8", [128, 64])
    assert tensors[f"{LAYER}.weight_scale"] == ("F32", [128, 1])
    config = json.loads((bases[INT8] / "config.json").read_text())["quantization_config"]
    group = config["config_groups"]["group_0"]
    assert (config["quant_method"], config["format"], config["quantization_status"], config["ignore"]) == (
        "compressed-tensors", "int-quantized", "compressed", ["lm_head"],
    )  # fmt: skip
    assert (group["weights"]["num_bits"], group["weights"]["strategy"], group["weights"]["symmetric"]) == (
        8, "channel", True,
    )  # fmt: skip
    activations = group["input_activations"]
    assert (activations["num_bits"], activations["strategy"], activations["dynamic"]) == (8, "token", True)


def test_fp8_has_a_byte_a_weight_and_rounds_within_its_mantissa(bases: dict[str, Path]) -> None:
    """Float8 weights with a scale a channel; no weight moves by more than 1/16 of itself and a little."""
    tensors = layout(bases[FP8])
    assert tensors[f"{LAYER}.weight"] == ("F8_E4M3", [128, 64])
    assert tensors[f"{LAYER}.weight_scale"] == ("F32", [128, 1])
    config = json.loads((bases[FP8] / "config.json").read_text())["quantization_config"]
    assert config["format"] == "float-quantized"
    activations = config["config_groups"]["group_0"]["input_activations"]
    assert (activations["type"], activations["strategy"], activations["dynamic"]) == ("float", "token", True)
    plain, rounded = (load_served_model(bases[scheme]).get_submodule(LAYER).weight for scheme in (NONE, FP8))
    least = plain.abs().amax(1, keepdim=True) / 448 * 2**-9  # half a step of the smallest numbers
    assert bool(((plain - rounded).abs() <= plain.abs() / 16 + least * 1.01).all())


def test_int4_packs_eight_weights_and_has_a_scale_a_group(bases: dict[str, Path]) -> None:
    """W4A16 packs eight weights into an int32, with one scale per group of 64 inputs, and no activations."""
    tensors = layout(bases[INT4])
    assert tensors[f"{LAYER}.weight_packed"] == ("I32", [128, 8])
    assert tensors[f"{LAYER}.weight_scale"] == ("F32", [128, 1])
    config = json.loads((bases[INT4] / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized"
    assert config["config_groups"]["group_0"]["input_activations"] is None
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == 64


@pytest.mark.parametrize("scheme", [INT8, INT4, FP8])
def test_the_head_the_norms_and_the_embeddings_stay(bases: dict[str, Path], scheme: str) -> None:
    """Only linear layers of the decoder are quantised."""
    floats = {name for name, (dtype, _) in layout(bases[scheme]).items() if dtype == "F32"}
    plain = {name for name in layout(bases[NONE]) if "_proj" not in name}
    assert floats == plain | {name for name in floats if name.endswith("weight_scale")}


@pytest.mark.parametrize(("scheme", "levels"), [(INT8, 127.5), (INT4, 7.5)])
def test_no_weight_moves_by_more_than_half_a_step(bases: dict[str, Path], scheme: str, levels: float) -> None:
    """Round-to-nearest: each weight is within half a step of its own; a step is the largest one / `levels`."""
    exact = load_served_model(bases[NONE]).get_submodule(LAYER).weight
    rounded = load_served_model(bases[scheme]).get_submodule(LAYER).weight
    step = (
        exact.abs().amax(-1, keepdim=True) / levels
    )  # 64 inputs are one group, so both schemes go by channel
    inside = exact < step * (levels - 0.5)  # the largest positive level is one short of the negative one
    error = (rounded - exact).abs()
    assert torch.all(error[inside] <= (step / 2 + 1e-6).expand_as(error)[inside])
    assert error.max() > 0


def test_the_group_size_is_the_largest_that_divides_every_width() -> None:
    """SmolLM2's widths (576, 1536) take groups of 64; widths that 32 does not divide are refused by number."""
    assert group_size({4096, 11008}) == 128
    assert group_size({576, 1536}) == 64
    assert group_size({96}) == 32
    with pytest.raises(BaseModelError, match=r"\[100\]"):
        group_size({64, 100})


def test_an_unknown_scheme_and_a_model_without_linear_layers_are_refused() -> None:
    """Both are errors that name what is wrong."""
    with pytest.raises(BaseModelError, match="'fp2'"):
        quantize_model(nn.Sequential(nn.Linear(32, 32)), "fp2")
    with pytest.raises(BaseModelError, match="no linear layers"):
        quantize_model(nn.Sequential(nn.ReLU()), INT8)


def test_progress_counts_every_layer_once() -> None:
    """The callback sees 1..n of n."""
    seen: list[tuple[int, int]] = []
    quantize_model(
        nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)), INT8, lambda done, of: seen.append((done, of))
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_the_experts_of_a_mixture_are_left_and_listed(kind: str, tmp_path: Path) -> None:
    """Every matrix of the layers is quantised or under `ignore`, and what is loaded again is what was saved."""
    family = next(family for family in FAMILIES if str(family) == kind)
    source = build_source(family, tmp_path / "source")
    prepare_base(tmp_path / "plain", str(source), "none")
    for scheme in ("int8", "int4"):
        base = tmp_path / scheme
        prepare_base(base, str(source), scheme)
        config = json.loads((base / "config.json").read_text())["quantization_config"]
        patterns = [pattern.removeprefix("re:") for pattern in config["ignore"]]
        for tensor, (dtype, shape) in layout(base).items():
            module = tensor.removesuffix(".weight")
            if ".layers." in tensor and len(shape) > 1 and dtype == "F32" and "_scale" not in tensor:
                assert any(re.match(pattern, module) for pattern in patterns), tensor
                assert "expert" in tensor or "gate" in tensor or "router" in tensor
            elif tensor.endswith("q_proj.weight"):
                assert not any(re.match(pattern, module) for pattern in patterns)
    plain = dict(load_served_model(tmp_path / "plain").named_parameters())
    loaded = dict(load_served_model(tmp_path / "int8").named_parameters())
    for name, value in plain.items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0 if "expert" in name else 0.02)
