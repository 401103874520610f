"""Read a PEFT LoRA directory: parse its files strictly, and say what the adapter is.

Parsing judges the form of the files only. Whether a server may load the adapter is decided by `validation`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lorecall.adapters.core.refusals import Reason, RefusedError, WeightsRefusedError
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.config import LoraSettings, read_settings
from lorecall.adapters.peft_format.digest import chunks_of, digest_of
from lorecall.adapters.peft_format.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    open_plain,
    read_json_bytes,
)
from lorecall.adapters.peft_format.safetensors_header import TensorEntry, read_header
from lorecall.adapters.peft_format.shapes import ModuleShape, effective_parameters
from lorecall.adapters.peft_format.training_record import read_training
from lorecall.adapters.peft_format.weights import LoraPair, LoraTensors, group_tensors

NOT_BY_PROMPT = ("lm_head", "embed_tokens")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in a directory.

    Attributes:
        path: Its PEFT directory.
        rank: The largest rank of its modules.
        modules: Every adapted module with its shapes, sorted by name.
        effective_parameters: Σ r · (d_in + d_out).
        version: sha256 (hex) over configuration and weights; see `digest_of`.
        refusal: Why its engine's scores of given texts would not show its effect ("" if they do).
        base_digest: Digest of the prepared base that it was trained on; "" if unknown.
        training: Its training record, as `read_training` gives it; {} without one.
        remarks: What its owner should know of how it is served, in sentences; () for nothing.
        chat_template: The Jinja template that its chats are rendered with; "" for the base's.
    """

    path: Path
    rank: int
    modules: tuple[ModuleShape, ...]
    effective_parameters: int
    version: str
    refusal: str = ""
    base_digest: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class OpenAdapter:
    """The parsed files of a PEFT directory, while its weights file is open.

    Attributes:
        path: The directory.
        raw_config: The bytes of `adapter_config.json`.
        config: The same as a JSON object.
        settings: What serving needs of it.
        training: Its training record, as `read_training` gives it; {} without one.
        weights: The open weights file.
        tensors: All tensors of the weights file, in the order of their bytes.
        lora: The tensors, grouped.
    """

    path: Path
    raw_config: bytes
    config: dict[str, Any]
    settings: LoraSettings
    training: dict[str, Any]
    weights: BinaryIO
    tensors: tuple[TensorEntry, ...]
    lora: LoraTensors

    @property
    def base_digest(self) -> str:
        """Digest of the prepared base that the adapter was trained on; "" if unknown."""
        return str(self.training.get("base_digest", ""))

    def adapter(self, version: str = "", *, vocabulary_scored: bool = False) -> Adapter:
        """Return what the adapter is.

        Args:
            version: Its digest where the caller knows it; "" to hash the files.
            vocabulary_scored: Whether the scores of given texts, where it is used, show adapters of the head and
                the embeddings; vLLM's own prompt log-probabilities do not.

        Raises:
            WeightsRefusedError: The matrices of a pair do not fit each other.
        """
        modules = tuple(_module(name, pair) for name, pair in sorted(self.lora.pairs.items()))
        return Adapter(
            path=self.path,
            rank=max(module.rank for module in modules),
            modules=modules,
            effective_parameters=effective_parameters(modules),
            version=version or self._digest(),
            refusal=_refusal(self.config, self.tensors, vocabulary_scored=vocabulary_scored),
            base_digest=self.base_digest,
            training=self.training,
        )

    def _digest(self) -> str:
        self.weights.seek(0)
        return digest_of(self.raw_config, chunks_of(self.weights))


def read_adapter(path: Path, *, vocabulary_scored: bool = False) -> Adapter:
    """Read a PEFT LoRA directory that the user named, without a server's policy.

    Of the weights only the header is parsed; all bytes are read once, for the digest. `vocabulary_scored` is that
    of `OpenAdapter.adapter`.

    Raises:
        RefusedError: It is not a PEFT LoRA directory, or its matrices do not fit each other.
    """
    with open_adapter(path, trusted=True) as files:
        return files.adapter(vocabulary_scored=vocabulary_scored)


@contextmanager
def open_adapter(
    path: Path, *, trusted: bool = False, training: dict[str, Any] | None = None
) -> Iterator[OpenAdapter]:
    """Parse the files of a PEFT LoRA directory and keep the weights file open during the block.

    Args:
        path: The directory. It may come from a stranger: what is read is bounded, and JSON is parsed strictly.
        trusted: Whether the user named the directory: links out of it are followed (the Hugging Face cache
            consists of them), and errors name the path.
        training: Its training record where the caller keeps it; None to read the directory's.

    Raises:
        RefusedError: A file is missing, unsafe to read or malformed, or it is no LoRA.
    """
    with ExitStack() as stack:
        try:
            opened = _parse(path, stack, training, follow_links=trusted)
        except RefusedError as error:
            if not trusted:
                raise
            message = f"{path}: {error.message}"
            raise type(error)(error.reason, message, hint=error.hint, param=error.param) from error
        yield opened


def _parse(
    path: Path, stack: ExitStack, training: dict[str, Any] | None, *, follow_links: bool
) -> OpenAdapter:
    raw_config = read_json_bytes(path, CONFIG_FILE, follow_links=follow_links)
    config = parse_object(raw_config, CONFIG_FILE)
    settings = read_settings(config)
    if training is None:
        training = read_training(path, follow_links=follow_links)
    weights = stack.enter_context(open_plain(path, WEIGHTS_FILE, follow_links=follow_links))
    tensors = read_header(weights)
    return OpenAdapter(path, raw_config, config, settings, training, weights, tensors, group_tensors(tensors))


def _module(name: str, pair: LoraPair) -> ModuleShape:
    a, b = pair.a.shape, pair.b.shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in (*a, *b):
        raise WeightsRefusedError(
            Reason.BAD_SHAPE,
            f"{name} has A {list(a)} and B {list(b)}",
            hint="A is (r, d_in), B is (d_out, r)",
            param=WEIGHTS_FILE,
        )
    return ModuleShape(name, rank=a[0], d_in=a[1], d_out=b[0])


def _refusal(config: Mapping[str, Any], tensors: tuple[TensorEntry, ...], *, vocabulary_scored: bool) -> str:
    """Return why scores of given texts would not show this adapter ("" if they do)."""
    for module in () if vocabulary_scored else NOT_BY_PROMPT:
        if any(module in tensor.name.split(".") for tensor in tensors):
            return f"it adapts {module}, which prompt log-probabilities leave out"
    if replaced := config.get("modules_to_save"):
        names = replaced if isinstance(replaced, list) else [replaced]
        return f"it replaces whole modules (modules_to_save: {', '.join(map(str, names))})"
    return ""
