"""What vLLM cannot serve is refused before an engine starts."""

import json
import sys
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.engine.start.families import check_family, check_packages


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
