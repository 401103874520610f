"""Exact W8A8 products: the right numbers on any CPU, and oneDNN's bits where oneDNN is right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.server.engine.cpu.int8_exact import exact_product, onednn_is_exact, pack_weight
from vllm import _custom_ops as ops
from vllm.platforms import current_platform

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="the CPU kernels of vLLM are not here")

ROWS = 128
"""That the kernel multiplies with a tile together."""

WIDTH, OUT = 1601, 43  # an odd pair, and a tile that is not full


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    """Load vLLM's CPU library, as a worker does."""
    current_platform.import_kernels()


def operands(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return activations, int8 weights and scales that fill the whole range of int8."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=generator)
    weight = torch.randint(-127, 128, (OUT, WIDTH), generator=generator).to(torch.int8)
    return x, weight, torch.rand(OUT, generator=generator)


@settings(max_examples=30, derandomize=True)
@given(rows=st.integers(1, ROWS + 9), seed=st.integers(0, 1000))
def test_products_are_those_of_the_whole_numbers(rows: int, seed: int) -> None:
    """Few rows or many: the product of the rounded numbers, computed in float64, times both scales."""
    x, weight, scale = operands(rows, seed)
    quantised, x_scale, _ = ops.onednn_scaled_int8_quant(x)
    expected = (quantised.double() @ weight.double().t()) * x_scale.double() * scale.double()
    found = exact_product(x, pack_weight(weight, scale), None).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 16, ROWS, ROWS + 1, 700])
def test_products_have_the_bits_of_onednn(rows: int) -> None:
    """Where oneDNN does not saturate, our kernel gives the same bits: scores and decoding keep one arithmetic."""
    if not onednn_is_exact():
        pytest.skip("oneDNN saturates on this CPU (no VNNI): there is nothing right to compare with")
    x, weight, scale = operands(rows, rows)
    scale_column = scale.unsqueeze(1).contiguous()  # the handler points at it
    handler = ops.create_onednn_scaled_mm(weight.t(), scale_column, torch.float32, True, False, 1)
    quantised, x_scale, _ = ops.onednn_scaled_int8_quant(x)
    expected = torch.empty(rows, OUT)
    ops.onednn_scaled_mm(handler, quantised, expected, x_scale, None, None, None)
    assert torch.equal(exact_product(x, pack_weight(weight, scale), None), expected)


def test_inputs_are_rounded_as_vllm_does() -> None:
    """A weight of one's gives back what the inputs were rounded to: vLLM's numbers, ties and extremes too."""
    x = (
        torch.randn(3000, 64, generator=torch.Generator().manual_seed(7))
        * torch.logspace(-30, 30, 3000)[:, None]
    )
    x[0], x[1, :63] = 0, torch.arange(63) - 31.5
    x[1, 63] = 127
    quantised, x_scale, _ = ops.onednn_scaled_int8_quant(x)
    quantised[0] = 0  # vLLM's are any numbers where the scale is zero
    found = exact_product(x, pack_weight(torch.eye(64).to(torch.int8), torch.ones(64)), None)
    assert torch.equal(found, quantised.float() * x_scale)


def test_company_changes_no_bit() -> None:
    """A row gives the same alone and among others: prefill and decode share one arithmetic."""
    x, weight, scale = operands(ROWS + 5, 1)
    packed = pack_weight(weight, scale)
    together = exact_product(x, packed, None)
    for row in (0, 3, ROWS - 1, ROWS, ROWS + 4):
        assert torch.equal(exact_product(x[row : row + 1], packed, None)[0], together[row])


def test_bias_and_shape_are_kept() -> None:
    """Leading dimensions come back, and the bias is added."""
    x, weight, scale = operands(6, 0)
    packed, bias = pack_weight(weight, scale), torch.arange(OUT).float()
    flat = exact_product(x, packed, bias)
    assert torch.equal(flat, exact_product(x, packed, None) + bias)
    assert torch.equal(exact_product(x.reshape(2, 3, WIDTH), packed, bias), flat.reshape(2, 3, OUT))


def test_any_layout_and_type_is_taken() -> None:
    """Rows that do not stand together give the same; bfloat16 is multiplied as float32, and comes back."""
    x, weight, scale = operands(6, 3)
    packed = pack_weight(weight, scale)
    columns = x.t().contiguous().t()
    assert not columns.is_contiguous()
    assert torch.equal(exact_product(columns, packed, None), exact_product(x, packed, None))
    half = x.bfloat16()
    found = exact_product(half, packed, None)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact_product(half.float(), packed, None).bfloat16())
