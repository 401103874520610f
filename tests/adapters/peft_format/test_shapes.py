"""Effective parameters are the entries of the LoRA matrices."""

import pytest
from lorecall.adapters.peft_format.shapes import ModuleShape, effective_parameters


@pytest.mark.parametrize(("rank", "parameters"), [(2, 16_384), (8, 65_536), (32, 262_144), (128, 1_048_576)])
def test_the_published_table_for_one_square_projection(rank: int, parameters: int) -> None:
    """For d = 4096, 2·d·r gives the figures of the explainer of arXiv 2605.30260."""
    assert effective_parameters([ModuleShape("q_proj", rank, 4096, 4096)]) == parameters


def test_modules_of_different_shape_and_rank_add_up() -> None:
    """The sum runs over modules, each with its own rank and widths."""
    modules = [ModuleShape("down", 4, 1536, 576), ModuleShape("q", 2, 576, 576)]
    assert effective_parameters(modules) == 4 * (1536 + 576) + 2 * (576 + 576)
    assert effective_parameters([]) == 0
