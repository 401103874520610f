"""What an adapter is: rank, modules, shapes and version, from its config and its weights' header."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import AdapterError
from lorecall.adapters.peft_format.digest import version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from lorecall.adapters.peft_format.shapes import ModuleShape, effective_parameters
from safetensors import SafetensorError, safe_open

PREFIX = "base_model.model."
NOT_BY_PROMPT = ("lm_head", "embed_tokens")
_A = (".lora_A.weight", ".lora_embedding_A")
_B = (".lora_B.weight", ".lora_embedding_B")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as it lies on disk.

    Attributes:
        path: Its PEFT directory.
        rank: The largest rank of its modules.
        alpha: `lora_alpha` of the config.
        target_modules: Last parts of the adapted modules' names, sorted.
        modules: Every adapted module with its shapes, sorted by name.
        effective_parameters: Σ r · (d_in + d_out).
        version: sha256 (hex) over config and weights.
        refusal: Why prompt log-probabilities would not be its own ("" if they are).
        base_digest: Digest of the prepared base that it was trained on; "" if unknown.
        training: The contents of `lorecall-training.json`; {} without one.
    """

    path: Path
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    modules: tuple[ModuleShape, ...]
    effective_parameters: int
    version: str
    refusal: str = ""
    base_digest: str = ""
    training: dict[str, Any] = field(default_factory=dict)


def read_adapter(path: Path) -> Adapter:
    """Read a PEFT LoRA directory; of the weights only the header (and the bytes, for the digest) is read.

    Raises:
        AdapterError: It is not a PEFT LoRA directory, or its matrices do not fit each other.
    """
    config = _read_json(path / CONFIG_FILE)
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{path} is a {config.get('peft_type')!r} adapter",
            hint='only "LORA" can be served',
            param=CONFIG_FILE,
        )
    names, shapes = _tensor_shapes(path / WEIGHTS_FILE)
    modules = _pair_modules(path, shapes)
    training = _read_json(path / TRAINING_FILE) if (path / TRAINING_FILE).is_file() else {}
    return Adapter(
        path=path,
        rank=max(module.rank for module in modules),
        alpha=_alpha(path, config),
        target_modules=tuple(sorted({module.name.rpartition(".")[2] for module in modules})),
        modules=modules,
        effective_parameters=effective_parameters(modules),
        version=version_digest((path / CONFIG_FILE).read_bytes(), path / WEIGHTS_FILE),
        refusal=_refusal(config, names),
        base_digest=str(training.get("base_digest", "")),
        training=training,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of an adapter."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"no adapter at {path.parent}: {path.name} is missing",
            hint="give a PEFT directory",
            param=path.name,
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}", param=path.name) from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path} holds {type(value).__name__}, not an object", param=path.name)
    return value


def _alpha(path: Path, config: dict[str, Any]) -> float:
    """Return the config's alpha."""
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(
            f"{path / CONFIG_FILE} has lora_alpha {alpha!r}", hint="a number", param="lora_alpha"
        )
    return float(alpha)


def _tensor_shapes(path: Path) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Return the names of all tensors, and the shapes of the LoRA matrices among them."""
    if not path.is_file():
        raise AdapterError(
            f"no adapter at {path.parent}: {path.name} is missing",
            hint="pickled weights (.bin) are not read: save them as safetensors",
            param=path.name,
        )
    try:
        with safe_open(path, framework="numpy") as weights:
            names = sorted(weights.keys())
            return names, {
                name: tuple(weights.get_slice(name).get_shape())
                for name in names
                if name.endswith((*_A, *_B))
            }
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is not a safetensors file: {error}", param=path.name) from error


def _pair_modules(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[ModuleShape, ...]:
    """Pair each A with its B."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        sides.setdefault(module, {})[side[-1]] = shape
    if not sides:
        raise AdapterError(f"{path / WEIGHTS_FILE} holds no LoRA matrices", param=WEIGHTS_FILE)
    modules = []
    for name, pair in sorted(sides.items()):
        a, b = pair.get("A", ()), pair.get("B", ())
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
            raise AdapterError(
                f"{name} has A {list(a)} and B {list(b)}",
                hint="A is (r, d_in), B is (d_out, r)",
                param=WEIGHTS_FILE,
            )
        modules.append(ModuleShape(name, rank=a[0], d_in=a[1], d_out=b[0]))
    return tuple(modules)


def _refusal(config: dict[str, Any], names: list[str]) -> str:
    """Return why the engine's prompt log-probabilities would not show this adapter ("" if they do)."""
    for module in NOT_BY_PROMPT:
        if any(module in name.split(".") for name in names):
            return f"it adapts {module}, which prompt log-probabilities leave out"
    if config.get("modules_to_save"):
        return (
            f"it replaces whole modules (modules_to_save: {', '.join(map(str, config['modules_to_save']))})"
        )
    return ""
