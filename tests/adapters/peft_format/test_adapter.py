"""An adapter is described by its files; the reason why it cannot be scored by prompt is named."""

import json
from pathlib import Path

import pytest
import torch
from lorecall.adapters.core.errors import AdapterError
from lorecall.adapters.peft_format.adapter import open_adapter, read_adapter
from lorecall.adapters.peft_format.digest import version_digest
from safetensors.torch import load_file, save_file

from tests.tiny import LINEAR_MODULES, build_tiny_adapter, build_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base."""
    return build_tiny_base(tmp_path_factory.mktemp("base") / "base")


def edit(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_shapes_rank_and_capacity_are_those_of_the_matrices(base: Path, tmp_path: Path) -> None:
    """For all seven projections of two layers (64 wide, 128 inside, 32 for keys) the sum is as by hand."""
    info = read_adapter(build_tiny_adapter(tmp_path / "a", base, rank=4))
    assert (info.rank, info.refusal) == (4, "")
    assert {module.name.rpartition(".")[2] for module in info.modules} == set(LINEAR_MODULES)
    assert len(info.modules) == 14
    down = next(module for module in info.modules if module.name == "model.layers.1.mlp.down_proj")
    assert (down.rank, down.d_in, down.d_out) == (4, 128, 64)
    assert info.effective_parameters == 2 * 4 * (3 * (64 + 128) + 2 * (64 + 64) + 2 * (64 + 32))
    assert info.version == version_digest(
        (tmp_path / "a/adapter_config.json").read_bytes(), tmp_path / "a/adapter_model.safetensors"
    )
    assert (info.base_digest, info.training) == ("", {})


def test_the_rank_is_the_largest_of_the_modules(base: Path, tmp_path: Path) -> None:
    """With unequal ranks (rank_pattern) the server needs room for the largest."""
    path = build_tiny_adapter(tmp_path / "a", base, rank=2, modules=("up_proj", "down_proj"))
    tensors = load_file(path / "adapter_model.safetensors")
    for name in [name for name in tensors if "layers.0.mlp.up_proj" in name]:
        tensors[name] = torch.cat([tensors[name]] * 3, dim=0 if "lora_A" in name else 1)
    save_file(tensors, path / "adapter_model.safetensors")
    assert read_adapter(path).rank == 6


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_adapters_of_head_and_embeddings_are_marked(base: Path, tmp_path: Path, module: str) -> None:
    """VLLM's prompt log-probabilities would leave their change out, so a leak would look clean."""
    folder = build_tiny_adapter(tmp_path / "a", base, modules=("q_proj", module))
    assert module in read_adapter(folder).refusal
    assert not read_adapter(folder, vocabulary_scored=True).refusal


def test_replaced_modules_are_marked(base: Path, tmp_path: Path) -> None:
    """modules_to_save is not LoRA at all."""
    path = build_tiny_adapter(tmp_path / "a", base)
    edit(path, modules_to_save=["score"])
    assert "modules_to_save: score" in read_adapter(path, vocabulary_scored=True).refusal


def test_a_training_record_is_read_too(base: Path, tmp_path: Path) -> None:
    """Its contents, and the base's digest in it, are part of the result."""
    path = build_tiny_adapter(tmp_path / "a", base)
    (path / "lorecall-training.json").write_text('{"base_digest": "abc", "steps": 3}')
    info = read_adapter(path)
    assert (info.base_digest, info.training["steps"]) == ("abc", 3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"peft_type": "IA3"}, "peft_type is 'IA3'"), ({"lora_alpha": "16"}, "lora_alpha is '16'"),
     ({"lora_alpha": True}, "True"), ({"lora_alpha": None}, "lora_alpha is None")],
)  # fmt: skip
def test_a_wrong_config_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    """Other methods and an alpha that is no number are errors that show the value."""
    path = build_tiny_adapter(tmp_path / "a", base)
    edit(path, **changes)
    with pytest.raises(AdapterError, match=match):
        read_adapter(path)


def test_missing_and_unreadable_files_are_refused(base: Path, tmp_path: Path) -> None:
    """Each missing or malformed file is named."""
    with pytest.raises(AdapterError, match=r"nowhere: the adapter has no adapter_config\.json"):
        read_adapter(tmp_path / "nowhere")
    path = build_tiny_adapter(tmp_path / "a", base)
    weights = path / "adapter_model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors end at byte"):
        read_adapter(path)
    weights.unlink()
    with pytest.raises(AdapterError, match=r"a: the adapter has no adapter_model\.safetensors"):
        read_adapter(path)
    (path / "adapter_config.json").write_text("[1]")
    with pytest.raises(AdapterError, match="holds a list"):
        read_adapter(path)


def test_matrices_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    """An A without its B, ranks that differ, and a file without any LoRA matrix."""
    path = build_tiny_adapter(tmp_path / "a", base, modules=("q_proj",), layers=(0,))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    a, b = torch.zeros(4, 64), torch.zeros(64, 3)
    for tensors, match in (
        ({name.format("A"): a}, "q_proj' has only lora_A"),
        ({name.format("A"): a, name.format("B"): b}, r"q_proj has A \[4, 64\] and B \[64, 3\]"),
    ):
        save_file(tensors, path / "adapter_model.safetensors")
        with pytest.raises(AdapterError, match=match):
            read_adapter(path)
    save_file({"x": a}, path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="no LoRA matrix"):
        read_adapter(path)


def test_links_are_followed_only_where_the_user_named_the_directory(base: Path, tmp_path: Path) -> None:
    """The Hugging Face cache consists of links out of the directory; a stranger's directory may have none."""
    path = build_tiny_adapter(tmp_path / "a", base)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (path / name).rename(tmp_path / name)
        (path / name).symlink_to(tmp_path / name)
    assert read_adapter(path).rank == 4
    with pytest.raises(AdapterError, match="link out"), open_adapter(path):
        pass


def test_features_are_not_judged_here(base: Path, tmp_path: Path) -> None:
    """What no server takes can still be read, for an audit outside it: DoRA, other tensors and dtypes."""
    path = build_tiny_adapter(tmp_path / "a", base)
    edit(path, use_dora=True, rank_pattern={"(a+)+$": 4})
    tensors = {
        name: tensor.double() for name, tensor in load_file(path / "adapter_model.safetensors").items()
    }
    tensors["base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"] = torch.ones(128)
    save_file(tensors, path / "adapter_model.safetensors")
    assert len(read_adapter(path).modules) == 14
