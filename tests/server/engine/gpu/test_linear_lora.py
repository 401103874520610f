"""On a GPU adapters go on linear layers only: the fix, and that stock vLLM still needs it."""

import inspect
from typing import Any

import pytest
from lorecall.server.engine.gpu import linear_lora
from vllm.lora import model_manager
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU
from vllm.v1.worker.gpu.lora_utils import LoraState


@pytest.mark.parametrize(("plugins", "left"), [("lorecall", {"q_proj"}), ("other", {"q_proj", "lm_head"})])
def test_embeddings_get_no_wrapper(plugins: str, left: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a server that names our plugin; in another, which may serve such adapters, all stays as it was."""

    def stock(model: Any) -> list[str]:
        return list(model)

    monkeypatch.setenv("VLLM_PLUGINS", plugins)
    monkeypatch.setattr(model_manager, "get_supported_lora_modules", stock)
    linear_lora.apply()
    assert set(model_manager.get_supported_lora_modules(["q_proj", "lm_head"])) == left


def test_stock_maps_prompt_rows_by_request() -> None:
    """vllm#51594: one entry a request maps the rows of logits, however many rows of a prompt they are.

    When this fails, prompt rows have a mapping of their own, and adapters on lm_head can be scored.
    """
    made = inspect.getsource(LoraState.make_lora_inputs)
    assert "prompt_lora_mapping = tuple(lora_ids)" in made
    logits = inspect.getsource(PunicaWrapperGPU.add_lora_logits)
    assert "prompt_mapping_meta" in logits
