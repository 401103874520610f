"""The training model does the served arithmetic: dequantised weights, activations rounded per token."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.bases.quantize import FP8, INT4, INT8, NONE
from lorecall.adapters.bases.served_model import load_served_model, round_per_token, round_to_fp8
from lorecall.adapters.core.errors import BaseModelError
from safetensors.torch import load_file

from tests.tiny import build_tiny_base

LAYER = "model.layers.1.mlp.gate_proj"


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny INT8 base."""
    return build_tiny_base(tmp_path_factory.mktemp("int8") / "base", INT8)


def test_rounding_follows_the_kernel_s_formula() -> None:
    """Each row becomes at most 255 levels of its own scale max|x| / 127, and the largest entry is exact."""
    x = torch.tensor([[0.5, -1.27, 0.004], [100.0, 25.4, 0.3]])
    expected = torch.tensor([[0.5, -1.27, 0.0], [100.0, 32 * 100 / 127, 0.0]])
    torch.testing.assert_close(round_per_token(x), expected)
    torch.testing.assert_close(round_per_token(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_an_fp8_layer_is_the_product_of_rounded_numbers(tmp_path: Path) -> None:
    """Both sides are float8 numbers times their scales; the largest entry of a token is exact."""
    base = build_tiny_base(tmp_path / "base", FP8)
    stored = load_file(base / "model.safetensors")
    weight = stored[f"{LAYER}.weight"].float() * stored[f"{LAYER}.weight_scale"]
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    scale = x.abs().amax(-1, keepdim=True) / 448
    expected = ((x / scale).to(torch.float8_e4m3fn).float() * scale) @ weight.T
    torch.testing.assert_close(
        load_served_model(base).get_submodule(LAYER)(x), expected, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(round_to_fp8(torch.tensor([[3.0, 0.1]]))[0, 0], torch.tensor(3.0))


@pytest.mark.parametrize("rounding", [round_per_token, round_to_fp8])
def test_the_gradient_passes_straight_through(rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The derivative of the rounding is taken to be 1 everywhere."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (rounding(x) * torch.arange(8.0)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.arange(8.0).expand(4, 8))


def test_an_int8_layer_is_the_integer_product(int8: Path) -> None:
    """A layer gives what int32 arithmetic on the stored bytes gives: (q_x · q_w) · s_x · s_w."""
    stored = load_file(int8 / "model.safetensors")
    weight, scale = stored[f"{LAYER}.weight"], stored[f"{LAYER}.weight_scale"]
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    x_scale = x.abs().amax(-1, keepdim=True) / 127
    integers = (x / x_scale).round().to(torch.int32) @ weight.to(torch.int32).T
    expected = integers * x_scale * scale.T
    torch.testing.assert_close(
        load_served_model(int8).get_submodule(LAYER)(x), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("scheme", [NONE, INT4])
def test_other_schemes_leave_activations_alone(tmp_path: Path, scheme: str) -> None:
    """Without quantised activations a layer is linear in its input."""
    layer = load_served_model(build_tiny_base(tmp_path / "base", scheme)).get_submodule(LAYER)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), x @ layer.weight.T)


def test_nothing_of_the_base_is_trainable(int8: Path) -> None:
    """All weights are frozen, float32 and in evaluation mode."""
    model = load_served_model(int8)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for name, parameter in model.named_parameters() if "scale" not in name} == {
        torch.float32
    }
    assert not model.training


def test_a_base_of_another_method_is_refused(int8: Path, tmp_path: Path) -> None:
    """What was quantised elsewhere can be served, not trained against, and the error says what to do."""
    prepare_base(tmp_path / "kept", str(int8))
    with pytest.raises(BaseModelError, match="compressed-tensors") as caught:
        load_served_model(tmp_path / "kept")
    assert "int8-w8a8" in caught.value.hint
