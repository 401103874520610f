"""The base's module shapes, read from headers, are those of the model itself, whatever the quantisation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lorecall.adapters.bases.quantize import INT4, INT8, NONE
from lorecall.adapters.core.errors import BaseModelError
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import LINEAR_MODULES, build_tiny_adapter, build_tiny_base

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch's own, on import
    pytest.mark.filterwarnings(
        "ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning"
    ),  # the head is what we test
]


@pytest.mark.parametrize("scheme", [NONE, INT8, INT4])
def test_shapes_are_the_models(scheme: str, tmp_path: Path) -> None:
    """Every linear layer and embedding of the Transformers model is found with its true width."""
    directory = build_tiny_base(tmp_path / "base", scheme)
    facts = read_base_facts(directory, names=["some-org/Alias"])
    config = AutoConfig.from_pretrained(directory)
    config.quantization_config = None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            expected[name] = (module.in_features, module.out_features)
        elif isinstance(module, torch.nn.Embedding):
            expected[name] = (module.num_embeddings, module.embedding_dim)
    assert facts.modules == expected
    assert facts.embeddings == {"model.embed_tokens"}
    assert facts.digest
    assert {"base", "alias"} <= facts.names


def test_adapter_saved_by_peft_passes(tmp_path: Path) -> None:
    """An adapter that PEFT itself made on a quantised base is accepted, one on the head too."""
    directory = build_tiny_base(tmp_path / "base", INT8)
    facts = read_base_facts(directory)
    plain = build_tiny_adapter(tmp_path / "plain", directory)
    assert len(validate_adapter(plain, facts, AdapterLimits(max_rank=8)).modules) == 2 * len(LINEAR_MODULES)
    head = build_tiny_adapter(tmp_path / "head", directory, modules=("q_proj", "lm_head"))
    assert "lm_head" in validate_adapter(head, facts, AdapterLimits(max_rank=8)).refusal
    assert not validate_adapter(head, facts, AdapterLimits(max_rank=8, vocabulary_scored=True)).refusal


@pytest.mark.parametrize(
    ("method", "bits", "packed"),
    [("gptq", 4, (64 // 8, 96)), ("awq", 4, (64, 96 // 8)), ("gptq", 3, (6, 96)), ("gptq", 8, (16, 96))],
)
def test_packed_formats(method: str, bits: int, packed: tuple[int, int], tmp_path: Path) -> None:
    """GPTQ packs weights into words along the input, AWQ along the output; 3 bits run over the words' borders."""
    save_file(
        {"model.layers.0.mlp.up_proj.qweight": np.zeros(packed, np.int32)}, tmp_path / "model.safetensors"
    )
    config = f'{{"quantization_config": {{"quant_method": "{method}", "bits": {bits}}}}}'
    (tmp_path / "config.json").write_text(config)
    assert read_base_facts(tmp_path).modules == {"model.layers.0.mlp.up_proj": (64, 96)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", '{"quantization_config": 3}'),
        ("config.json", '{"quantization_config": {"bits": "x"}}'),
        ("lorecall-base.json", "[]"),
        ("lorecall-base.json", "{"),
    ],
)
def test_a_damaged_description_is_an_error_of_the_base(name: str, content: str, tmp_path: Path) -> None:
    """Whatever type is in the place of another."""
    (tmp_path / "config.json").write_text("{}")
    save_file({"x.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    assert read_base_facts(tmp_path).modules == {"x": (2, 2)}
    (tmp_path / name).write_text(content)
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_base_facts(tmp_path)


def test_no_model_is_an_error_of_the_base(tmp_path: Path) -> None:
    """A directory without a model, and one with a broken header, are errors about the base."""
    with pytest.raises(BaseModelError, match="no safetensors"):
        read_base_facts(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_base_facts(tmp_path)
