"""An adapter's q_proj and k_proj follow the order that Llama 4's rows are given at load."""

from types import SimpleNamespace

import torch
from lorecall.server.engine.common.rotary_rows import reorder_rows


class Reordering:
    """A model that turns the rows of every weight around."""

    @staticmethod
    def permute_qk_weight_for_rotary(name: str, weight: torch.Tensor) -> tuple[str, torch.Tensor]:
        """Return the weight in another order."""
        return name, weight.flip(0)


def layers(*names: str) -> dict[str, SimpleNamespace]:
    """Return an adapter's layers of those names."""
    return {name: SimpleNamespace(lora_b=torch.arange(6.0).reshape(3, 2)) for name in names}


def reordered(model: object, *names: str) -> list[bool]:
    """Return of which layers the rows were turned around."""
    found = layers(*names)
    reorder_rows(model, found)
    return [bool(layer.lora_b[0, 0] == 4) for layer in found.values()]


def test_the_rows_of_q_and_k_follow_those_of_the_base() -> None:
    """And no others."""
    names = [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    assert reordered(Reordering(), *names) == [True, True, False, False]


def test_of_a_multimodal_model_only_the_text_models_rows_do() -> None:
    """What sees keeps its own order."""
    model = SimpleNamespace(language_model=Reordering())
    names = "language_model.model.layers.0.self_attn.q_proj", "vision_model.layers.0.self_attn.q_proj"
    assert reordered(model, *names) == [True, False]


def test_other_models_are_left_alone() -> None:
    """They load the rows as they are."""
    assert reordered(SimpleNamespace(), "model.layers.0.self_attn.q_proj") == [False]
