"""Make a tiny base, good adapters on it, and spoilers that turn a good adapter into a bad one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from safetensors.numpy import load_file, save_file

RANK = 4
HIDDEN, KEYS, INNER, VOCABULARY, LAYERS = 16, 8, 24, 32, 2
BASE_NAME = "tiny-lm"
BASE_DIGEST = "ab" * 32
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"
Spoiler = Callable[[Path], None]


def module_shapes() -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of the tiny base's linear modules."""
    attention = {"q_proj": (HIDDEN, HIDDEN), "k_proj": (KEYS, HIDDEN), "v_proj": (KEYS, HIDDEN)}
    mlp = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.self_attn.{name}": shape for name, shape in attention.items()}
        shapes |= {f"model.layers.{layer}.mlp.{name}": shape for name, shape in mlp.items()}
    return shapes


def write_base(directory: Path) -> Path:
    """Write a tiny base of Llama's layout, with a manifest, in two shards."""
    directory.mkdir(parents=True)
    weights = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in module_shapes().items()}
    save_file(weights, directory / "model-00001-of-00002.safetensors")
    rest = {
        "model.embed_tokens.weight": np.zeros((VOCABULARY, HIDDEN), np.float32),
        "model.norm.weight": np.zeros((HIDDEN,), np.float32),
    }
    save_file(rest, directory / "model-00002-of-00002.safetensors")
    (directory / "config.json").write_text('{"tie_word_embeddings": true}')
    manifest = {"name": BASE_NAME, "source": f"some-org/{BASE_NAME}", "digest": BASE_DIGEST}
    (directory / "lorecall-base.json").write_text(json.dumps(manifest))
    return directory


def write_adapter(
    directory: Path, targets: tuple[str, ...] = ("q_proj", "down_proj"), rank: int = RANK
) -> Path:
    """Write a good adapter on the tiny base, as PEFT would save it."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    tensors = {}
    for module, (d_out, d_in) in module_shapes().items():
        if module.rpartition(".")[2] in targets:
            tensors[f"base_model.model.{module}.lora_A.weight"] = random.normal(size=(rank, d_in)).astype(
                np.float32
            )
            tensors[f"base_model.model.{module}.lora_B.weight"] = random.normal(size=(d_out, rank)).astype(
                np.float32
            )
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": f"some-org/{BASE_NAME}",
        "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), "bias": "none", "use_dora": False,
        "use_rslora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    return directory


def setting(**values: Any) -> Spoiler:
    """Overwrite settings of the configuration."""

    def spoil(directory: Path) -> None:
        config = json.loads((directory / CONFIG_FILE).read_text())
        (directory / CONFIG_FILE).write_text(json.dumps(config | values))

    return spoil


def config_text(text: str | bytes) -> Spoiler:
    """Replace the configuration."""
    raw = text if isinstance(text, bytes) else text.encode()
    return lambda directory: discard((directory / CONFIG_FILE).write_bytes(raw))


def training(**values: Any) -> Spoiler:
    """Add a training record."""
    return lambda directory: discard((directory / TRAINING_FILE).write_text(json.dumps(values)))


def training_text(text: str) -> Spoiler:
    """Add a training record of that text."""
    return lambda directory: discard((directory / TRAINING_FILE).write_text(text))


def tensors(change: Callable[[dict[str, Any]], object]) -> Spoiler:
    """Save the weights again with other tensors."""

    def spoil(directory: Path) -> None:
        loaded = load_file(directory / WEIGHTS_FILE)
        change(loaded)
        save_file(loaded, directory / WEIGHTS_FILE)

    return spoil


def put(name: str, matrix: np.ndarray[Any, Any]) -> Spoiler:
    """Put in one tensor, in place of the one of that name if there is one."""
    return tensors(lambda loaded: loaded.update({name: matrix}))


def renamed(old: str, new: str) -> Spoiler:
    """Rename tensors: every occurrence of a part."""

    def change(loaded: dict[str, Any]) -> None:
        for name in list(loaded):
            loaded[name.replace(old, new)] = loaded.pop(name)

    return tensors(change)


def header(change: Callable[[dict[str, Any]], object]) -> Spoiler:
    """Edit the header of the weights as JSON."""

    def edit(text: str) -> str:
        parsed = json.loads(text)
        change(parsed)
        return json.dumps(parsed)

    return header_text(edit)


def header_text(edit: Callable[[str], str]) -> Spoiler:
    """Edit the header of the weights as text; the length before it is kept true."""

    def spoil(directory: Path) -> None:
        raw = (directory / WEIGHTS_FILE).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        new = edit(raw[8 : 8 + length].decode()).encode()
        (directory / WEIGHTS_FILE).write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + length :])

    return spoil


def raw_weights(change: Callable[[bytes], bytes]) -> Spoiler:
    """Edit the weights file as bytes."""
    return lambda directory: discard(
        (directory / WEIGHTS_FILE).write_bytes(change((directory / WEIGHTS_FILE).read_bytes()))
    )


def value(number: float, dtype: type = np.float32) -> Spoiler:
    """Put one value in the middle of one matrix."""

    def change(loaded: dict[str, Any]) -> None:
        matrix = loaded[f"{Q0}.lora_B.weight"].astype(dtype)
        matrix[3, 2] = number
        loaded[f"{Q0}.lora_B.weight"] = matrix

    return tensors(change)


def discard(_: object) -> None:
    """Make an expression with a value a statement."""


def replaced(make: Callable[[Path], object], name: str = WEIGHTS_FILE) -> Spoiler:
    """Put something else in place of a file."""

    def spoil(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return spoil


def entry(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    """For `header`: overwrite fields of one tensor's description."""
    return lambda parsed: parsed[name].update(values)


def sparse(size: int, length: int) -> Spoiler:
    """A file of `size` bytes, all holes, that says its header has `length`."""

    def spoil(directory: Path) -> None:
        with (directory / WEIGHTS_FILE).open("wb") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(size)

    return spoil
