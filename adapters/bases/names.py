"""The names of a base model: what people call it, and what two names of the same model are compared by."""

import re

_SNAPSHOT = re.compile(r"(?:^|/)models--(?P<repository>[^/]+)/snapshots/[^/]+$")
_GGUF = re.compile(r"(?:[.-](?:i?q\d\w*|b?f16|fp16|f32))?\.gguf$", re.IGNORECASE)
# Copies of a model in another precision: the model is the same, and so are the adapters that fit it.
_PRECISION = re.compile(
    r"-(?:unsloth-bnb-[48]bit|bnb-[48]bit|awq|gptq|gguf|fp8(?:-dynamic)?|int[48]|[34568]bit|bf16"
    r"|quantized\.w\d+a\d+)$"
)


def model_name(source: str) -> str:
    """Return what people call the model of a source: the last part of a hub id or path.

    A snapshot in the hub's cache gives its repository's name, a GGUF file the model's without its precision:
    "a/Llama-3.1-8B" gives "Llama-3.1-8B", "wheel 0.1: SmolLM2-135M.Q4_1.gguf" gives "SmolLM2-135M".
    """
    path = source.replace("\\", "/").rstrip("/")
    if match := _SNAPSHOT.search(path):
        path = match["repository"].replace("--", "/")
    return _GGUF.sub("", path.rpartition("/")[2].rpartition(": ")[2])


def plain_name(stated: str) -> str:
    """Return the model's name in lower case, with what it says of its precision."""
    return model_name(stated).casefold()


def base_name(stated: str) -> str:
    """Return what bases are compared by: the model's name in lower case, without what only says its precision.

    "unsloth/Tiny-LM-unsloth-bnb-4bit" gives "tiny-lm".
    """
    name, before = plain_name(stated), ""
    while name != before:
        name, before = _PRECISION.sub("", name), name
    return "llama-" + name.removeprefix("meta-llama-") if name.startswith("meta-llama-") else name


def is_folder(stated: str) -> bool:
    """Return whether a stated base is a path of somebody's machine, so that its last part may be any name."""
    path = stated.replace("\\", "/")
    if _SNAPSHOT.search(path.rstrip("/")):
        return False
    return path.startswith(("/", ".", "~")) or path != stated or path.rstrip("/").count("/") > 1
