"""What vLLM cannot serve is refused before an engine starts."""

import json
import sys
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.engine.start.families import check_family, check_packages
from vllm.platforms import current_platform


def write_config(path: Path, name: str) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": [name]}))
    return str(path)


def test_a_class_without_lora_is_refused_by_name(tmp_path: Path) -> None:
    """GPT2LMHeadModel is a causal language model, to which vLLM applies no adapters."""
    for name in ("LlamaForCausalLM", "GPTNeoXForCausalLM", "SomethingNewForCausalLM"):
        check_family(write_config(tmp_path / name, name))
    check_family("org/on-the-hub")
    for name in ("GPT2LMHeadModel", "MambaForCausalLM"):
        with pytest.raises(BaseModelError, match=f"{name}: vLLM applies no adapters"):
            check_family(write_config(tmp_path / name, name))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the engine starts: vLLM imports torchvision for Gemma 3 as published, for text alone not."""
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as where it is not installed
    check_packages(write_config(tmp_path / "text", "LlamaForCausalLM"))
    whole = write_config(tmp_path / "whole", "Gemma3ForConditionalGeneration")
    check_family(whole)
    with pytest.raises(BaseModelError, match=r"not installed: .*torchvision.*base prepare"):
        check_packages(whole)


def test_a_class_that_imports_what_is_missing_is_refused_also_for_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen3.5's text model imports torchvision through the multimodal one: preparing it would not help."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "vllm.model_executor.models.qwen3_5", raising=False)
    with pytest.raises(BaseModelError, match=r"^Qwen3_5ForCausalLM needs .*torchvision") as caught:
        check_family(write_config(tmp_path / "text", "Qwen3_5ForCausalLM"))
    assert "reads text alone" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "cpu", "gpu"),
    [
        ("Lfm2ForCausalLM", "depend on the other requests", ""),
        ("Lfm2MoeForCausalLM", "depend on the other requests", ""),
        ("K2HorizonForCausalLM", "reorders the rows", "reorders the rows"),
    ],
)
def test_classes_with_wrong_numbers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cpu: str, gpu: str
) -> None:
    """In silence they would be served; what is wrong on a CPU alone is served elsewhere."""
    model = write_config(tmp_path / "model", name)
    for said, on_cpu in ((cpu, True), (gpu, False)):
        monkeypatch.setattr(type(current_platform), "is_cpu", lambda _self, here=on_cpu: here)
        if said:
            with pytest.raises(BaseModelError, match=f"{name}: .*{said}"):
                check_family(model)
        else:
            check_family(model)
