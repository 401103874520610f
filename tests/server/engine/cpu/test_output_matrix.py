"""The output matrix in bfloat16: the same numbers, whatever the number of rows; not where it would round."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.server.engine.cpu.output_matrix import FEW_ROWS, few_rows, multiply, pack_matrix

D_IN, D_OUT = 70, 101  # a last block that is not full


def operands(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [rows, D_IN] and a matrix [D_OUT, D_IN] of bfloat16 numbers, both float32."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(D_OUT, D_IN, generator=generator)
    return torch.randn(rows, D_IN, generator=generator), matrix.bfloat16().float()


@settings(max_examples=40, derandomize=True)
@given(rows=st.integers(0, 21), seed=st.integers(0, 1000))
def test_the_product_is_that_of_the_numbers(rows: int, seed: int) -> None:
    """As in float64 but for float32's sums; and a row's bits do not depend on the rows beside it."""
    x, matrix = operands(rows, seed)
    packed = pack_matrix(matrix)
    assert packed is not None
    found = multiply(x, packed, D_OUT)
    expected = x.double() @ matrix.double().t()
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-4)
    for row in range(rows):
        assert torch.equal(found[row], multiply(x[row : row + 1], packed, D_OUT)[0])


def test_a_matrix_that_would_be_rounded_is_left_alone() -> None:
    """Numbers of float32, an odd number of inputs, another dtype."""
    matrix = operands(0, 1)[1]
    assert pack_matrix(matrix + 1e-3) is None
    assert pack_matrix(matrix[:, 1:]) is None
    assert pack_matrix(matrix.bfloat16()) is None


def test_many_rows_and_matrices_that_would_be_rounded_go_to_the_product_of_before() -> None:
    """Few rows of a matrix that is exact do not."""
    asked: list[int] = []

    def many(x: torch.Tensor, weight: torch.Tensor, _bias: torch.Tensor | None) -> torch.Tensor:
        asked.append(len(x))
        return x @ weight.t()

    x, matrix = operands(FEW_ROWS + 1, 2)
    linear, rounded = few_rows(many), few_rows(many)
    few, all_rows = linear(x[:1], matrix, None), linear(x, matrix, None)
    assert asked == [FEW_ROWS + 1]
    assert torch.allclose(few, all_rows[:1], rtol=0, atol=1e-4)
    rounded(x[:1], matrix + 1e-3, None)
    assert asked == [FEW_ROWS + 1, 1]


def test_tensors_that_do_not_fit_are_refused() -> None:
    """The kernel would write out of bounds."""
    x, matrix = operands(2, 3)
    packed = pack_matrix(matrix)
    assert packed is not None
    with pytest.raises(RuntimeError, match="2 x 68"):
        multiply(x[:, 2:], packed, D_OUT)
