"""What trainers and people make of a good adapter: changes of its folder."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE
from safetensors.torch import load_file, save_file

from tests.adapters.spoiling import setting
from tests.tiny import build_tiny_adapter, build_tokenizer

PREFIX = "base_model.model."
Tensors = dict[str, torch.Tensor]
Change = Callable[[Path], object]


def load(folder: Path) -> Tensors:
    """The tensors of the good adapter."""
    loaded: Tensors = load_file(folder / WEIGHTS_FILE)
    return loaded


def save(folder: Path, tensors: Tensors) -> None:
    """Save tensors in the place of the adapter's."""
    save_file(
        {name: one.clone().contiguous() for name, one in tensors.items()},
        folder / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )


def named(rename: Callable[[str], str]) -> Change:
    """Rename the tensors."""
    return lambda folder: save(folder, {rename(name): one for name, one in load(folder).items()})


def keep(wanted: Callable[[str], bool]) -> Change:
    """Leave tensors out."""
    return lambda folder: save(folder, {name: one for name, one in load(folder).items() if wanted(name)})


def add(name: str, tensor: torch.Tensor) -> Change:
    """Put in one tensor more."""
    return lambda folder: save(folder, load(folder) | {name: tensor})


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def beside(name: str, content: bytes = b"{}") -> Change:
    """Put a file beside the adapter's."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def without(*names: str) -> Change:
    """Take files away."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def pickled(name: str = "adapter_model.bin") -> Change:
    """Save the weights as `torch.save` does, as PEFT did before safetensors."""
    return lambda folder: (torch.save(load(folder), folder / name), without(WEIGHTS_FILE)(folder))


def sharded(suffix: str = "safetensors", parts: int = 3, lost: int = 0) -> Change:
    """Save the weights in shards."""

    def change(folder: Path) -> None:
        tensors = load(folder)
        without(WEIGHTS_FILE)(folder)
        for part in range(1, parts + 1):
            some = {name: tensors[name].clone() for name in sorted(tensors)[part - 1 :: parts]}
            file = folder / f"adapter_model-{part:05}-of-{parts:05}.{suffix}"
            if part != lost:
                save_file(some, file) if suffix == "safetensors" else torch.save(some, file)

    return change


def mlx(*, scale: bool = True, wrapped: str = "", kind: str = "lora") -> Change:
    """Save as mlx_lm does: lora_a (d_in, r), lora_b (r, d_out), and the scale itself."""

    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        tensors = {}
        for name, one in load(folder).items():
            module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
            tensors[f"{wrapped}{module}.lora_{side.lower()}"] = one.T.contiguous()
        without(WEIGHTS_FILE)(folder)
        save_file(tensors, folder / "adapters.safetensors")
        parameters: dict[str, Any] = {"rank": config["r"], "dropout": 0.0}
        parameters |= {"scale": config["lora_alpha"] / config["r"]} if scale else {}
        written = {"fine_tune_type": kind, "lora_parameters": parameters, "num_layers": 2}
        written["model"] = config["base_model_name_or_path"]
        (folder / CONFIG_FILE).write_text(json.dumps(written))

    return change


def tokenizer(*more: str) -> Change:
    """The base's tokenizer beside it, as a trainer saves it, with these tokens added."""

    def change(folder: Path) -> None:
        ours = build_tokenizer()
        ours.add_tokens(list(more))
        ours.save_pretrained(folder)

    return change


def text(file: str, content: bytes) -> Change:
    """Replace a file."""
    return lambda folder: (folder / file).write_bytes(content)


def zero_b(folder: Path) -> None:
    """An adapter as it is before its training."""
    save(folder, {name: one * 0 if "lora_B" in name else one for name, one in load(folder).items()})


def scaled(factor: float) -> Change:
    """A scaled, and B the other way round."""
    return lambda folder: save(
        folder,
        {name: one * factor if "lora_A" in name else one / factor for name, one in load(folder).items()},
    )


def embeddings(tokens: int) -> Change:
    """What PEFT saves along after a resize of the vocabulary."""
    return add(f"{PREFIX}model.embed_tokens.weight", torch.ones(tokens, 64))


def checkpoints(folder: Path) -> None:
    """Two checkpoints beside the adapter, with other weights."""
    for step in (10, 20):
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        (place / CONFIG_FILE).write_bytes((folder / CONFIG_FILE).read_bytes())
        save_file({"x": torch.ones(2)}, place / WEIGHTS_FILE)


def adapting(*modules: str, **settings: Any) -> Change:
    """An adapter of other modules, which PEFT makes on the good one's base."""

    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the base ties its embeddings
            build_tiny_adapter(folder, Path(config["base_model_name_or_path"]), modules=modules, **settings)

    return change


def patterns(folder: Path) -> None:
    """EVA: a rank for every module by its name, over 500 of them with those of modules not here."""
    modules = {name.removeprefix(PREFIX).partition(".lora_")[0] for name in load(folder)}
    rank = json.loads((folder / CONFIG_FILE).read_text())["r"]
    ranks = dict.fromkeys(sorted(modules), rank) | {
        f"model.layers.{n}.self_attn.x_proj": 2 for n in range(560)
    }
    alphas = dict.fromkeys(ranks, json.loads((folder / CONFIG_FILE).read_text())["lora_alpha"])
    setting(rank_pattern=ranks, alpha_pattern=alphas, init_lora_weights="eva")(folder)


def mixed_ranks(folder: Path) -> None:
    """Half of the modules with rank 2 and an alpha of their own, under a large r that no module has."""
    tensors = load(folder)
    for name, one in tensors.items():
        if "self_attn" in name:
            tensors[name] = one[:2] if "lora_A" in name else one[:, :2]
    save(folder, tensors)
    own = {"self_attn": 2, "mlp": 4}
    names = {f".*{part}.*": rank for part, rank in own.items()}
    setting(r=4096, lora_alpha=8, rank_pattern=names, alpha_pattern={".*self_attn.*": 3})(folder)
