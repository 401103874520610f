"""What an adapter must fit: names, digest and module shapes of a base model, read without its weights."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.adapters.bases.names import base_name, plain_name
from lorecall.adapters.bases.prepare import BASE_MANIFEST
from lorecall.adapters.core.errors import BaseModelError
from lorecall.adapters.core.refusals import WeightsRefusedError
from lorecall.adapters.peft_format.companions import NO_COMPANIONS, Companions, read_companions
from lorecall.adapters.peft_format.safetensors_header import TensorEntry, read_header

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")


@dataclass(frozen=True)
class BaseFacts:
    """What validation compares an adapter with.

    Attributes:
        names: Names that an adapter's configuration may state for it, by `base_name` and `plain_name`.
        digest: Its digest from `lorecall-base.json`; "" for a model without that file.
        modules: (d_in, d_out) by the module's name in Transformers ("model.layers.0.self_attn.q_proj").
            For an embedding d_in is the vocabulary.
        embeddings: The names of the input embeddings in `modules`.
        architectures: The classes in Transformers, as its configuration states them.
        tied: Whether its head has the weights of its embeddings.
        tokenizer: What its tokenizer's files say.
    """

    names: frozenset[str]
    digest: str
    modules: Mapping[str, tuple[int, int]]
    embeddings: frozenset[str]
    architectures: tuple[str, ...] = ()
    tied: bool = False
    tokenizer: Companions = NO_COMPANIONS

    def layers(self) -> frozenset[int]:
        """Return the numbers of its layers."""
        return layers_of(self.modules)


NO_BASE = BaseFacts(frozenset(), "", {}, frozenset())
"""Where no base is at hand."""


def read_base_facts(directory: Path, names: Collection[str] = ()) -> BaseFacts:
    """Read the facts of a model directory. Of the weights only the safetensors headers are read.

    Understands plain weights, compressed-tensors (INT8, INT4 and FP8), AWQ and GPTQ.

    Args:
        directory: A Hugging Face model directory with safetensors.
        names: Further names that adapters may state as their base, such as the hub id it came from.

    Raises:
        BaseModelError: The directory is not a readable model.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise BaseModelError(f"no safetensors in {directory}", hint="give a model directory", param="base")
    try:
        config = _object(json.loads((directory / "config.json").read_text()), "config.json")
        manifest_file = directory / BASE_MANIFEST
        manifest = json.loads(manifest_file.read_text()) if manifest_file.exists() else {}
        manifest = _object(manifest, BASE_MANIFEST)
        quantization = config.get("quantization_config") or {}
        shapes = dict(_shapes(files, _object(quantization, "quantization_config")))
    except (OSError, ValueError, TypeError, ArithmeticError, WeightsRefusedError) as error:
        raise BaseModelError(f"{directory} cannot be read: {error}", param="base") from error
    embeddings = frozenset(module for module in shapes if module.rpartition(".")[2] in _EMBEDDINGS)
    if config.get("tie_word_embeddings") and "lm_head" not in shapes and embeddings:
        shapes["lm_head"] = shapes[next(iter(embeddings))]
    modules = {name: (out, in_) if name in embeddings else (in_, out) for name, (out, in_) in shapes.items()}
    stated = [directory.resolve().name, *names]
    stated += [str(manifest.get(key) or "") for key in ("name", "source")] + [
        str(config.get("_name_or_path") or "")
    ]
    classes = config.get("architectures")
    return BaseFacts(
        names=frozenset(filter(None, (form(name) for name in stated for form in (base_name, plain_name)))),
        digest=str(manifest.get("digest", "")),
        modules=modules,
        embeddings=embeddings,
        architectures=tuple(map(str, classes if isinstance(classes, list) else ())),
        tied=bool(config.get("tie_word_embeddings")),
        tokenizer=read_companions(directory, follow_links=True),
    )


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} holds no JSON object")
    return value


def layers_of(modules: Iterable[str]) -> frozenset[int]:
    """Return the numbers of the layers that modules lie in: the first number in each name."""
    found = (re.search(r"\.(\d+)\.", module) for module in modules)
    return frozenset(int(match[1]) for match in found if match)


def _shapes(files: Iterable[Path], quantization: dict[str, Any]) -> Iterable[tuple[str, tuple[int, int]]]:
    """Yield module name and (d_out, d_in), the order of `torch.nn.Linear.weight`."""
    bits = int(quantization.get("bits") or 4)
    for path in files:
        with path.open("rb") as file:
            for tensor in read_header(file, path.name):
                module, _, kind = tensor.name.rpartition(".")
                if kind == "weight" and len(tensor.shape) == 2:
                    yield module, (tensor.shape[0], tensor.shape[1])
                elif kind == "weight_shape":
                    file.seek(tensor.begin)
                    yield module, _stored_shape(file.read(tensor.end - tensor.begin))
                elif kind == "qweight":
                    yield module, _packed_shape(tensor, quantization.get("quant_method"), bits)


def _stored_shape(raw: bytes) -> tuple[int, int]:
    width = len(raw) // 2
    return int.from_bytes(raw[:width], "little"), int.from_bytes(raw[width:], "little")


def _packed_shape(tensor: TensorEntry, method: object, bits: int) -> tuple[int, int]:
    """Return (d_out, d_in) of packed words of 32 bits; widths such as 3 run on over the words' borders."""
    rows, columns = tensor.shape
    if method == "awq":  # AWQ packs along the output
        return columns * 32 // bits, rows
    return columns, rows * 32 // bits  # GPTQ packs along the input
