"""Convert an adapter as a trainer saved it into a plain LoRA of PEFT with the same change of the weights."""

import codecs
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorecall.adapters.convert.lora_names import module_of_base, read_name
from lorecall.adapters.convert.raw_files import MLX_WEIGHTS, read_tensors, weights_files
from lorecall.adapters.convert.updates import Update, less_initial, without_magnitude
from lorecall.adapters.core.atomic_directory import new_directory
from lorecall.adapters.core.refusals import (
    BaseMismatchError,
    ConfigRefusedError,
    Reason,
    WeightsRefusedError,
    safe_repr,
)
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.config import MAX_TARGETS, read_settings
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, read_json_bytes
from lorecall.adapters.peft_format.patterns import Targets
from lorecall.adapters.peft_format.training_record import read_training
from lorecall.adapters.peft_format.weights import PREFIX, is_frozen, not_lora
from lorecall.adapters.validation.config_checks import check_config, is_harmless

if TYPE_CHECKING:
    import torch

MAX_BYTES = 8 << 30
_ANY_RANK = 1 << 20
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Conversion:
    """What a conversion did.

    Attributes:
        rank: The largest rank of the result.
        modules: How many modules it adapts.
        steps: What was changed, in sentences; nothing that only renames tensors.
        error: Frobenius norm of what the result misses of the original's change of the weights, as a share of it;
            0 but for DoRA.
    """

    rank: int
    modules: int
    steps: list[str] = field(default_factory=list)
    error: float = 0.0


@dataclass
class _Source:
    """An adapter as its trainer saved it: settings, and updates by their module in the base."""

    config: dict[str, Any]
    updates: dict[str, Update]
    steps: list[str]


def convert_adapter(
    source: Path,
    out: Path,
    *,
    base: Path | None = None,
    initial: Path | None = None,
    rank: int | None = None,
) -> Conversion:
    """Write a plain LoRA that changes the base's weights as the source does under its own trainer.

    Args:
        source: The folder that the trainer wrote.
        out: The PEFT directory to make; replaced if it exists.
        base: A base made by `lorecall base prepare`. DoRA needs it; the names of modules are looked up in it.
        initial: The adapter before its training, for PiSSA, OLoRA, CorDA and LoftQ.
        rank: The rank of each module of a DoRA's result; None for twice its own.

    Raises:
        RefusedError: The source cannot be converted, with what is missing.
        BaseModelError: The base cannot be read.
    """
    model = _load(base) if base is not None else None
    known = {name for name, _ in model.named_modules()} if model is not None else frozenset()
    read = _read(source, known)
    start = read.config.get("init_lora_weights", True)
    if isinstance(start, str) and not is_harmless(start):
        if initial is None:
            raise ConfigRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                f"init_lora_weights is {safe_repr(start)}: the base's weights were changed before the training",
                hint="give the adapter as it was before the training with --initial DIR",
                param="init_lora_weights",
            )
        read = _without_initial(read, _read(initial, known), start)
    result = Conversion(0, 0, read.steps)
    if any(update.magnitude is not None for update in read.updates.values()):
        result.error = _without_magnitudes(read, model, rank)
    result.rank = max(update.rank for update in read.updates.values())
    result.modules = len(read.updates)
    training = read_training(source, follow_links=True)
    config = _config(read)
    with new_directory(out) as work:
        _save(read.updates, work / WEIGHTS_FILE)
        (work / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if training:
            (work / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n")
    return result


def _read(source: Path, known: Collection[str]) -> _Source:
    files = weights_files(source)
    raw = read_json_bytes(source, CONFIG_FILE, follow_links=True).removeprefix(codecs.BOM_UTF8)
    config = parse_object(raw, CONFIG_FILE)
    tensors = read_tensors(files, max_bytes=MAX_BYTES)
    steps = [f"read from {len(files)} files"] if len(files) > 1 else []
    if files[0].suffix != ".safetensors":
        steps.append("read from PyTorch's format, without running code of it")
    parts, dropped = _grouped(tensors)
    if "peft_type" not in config or files[0].name == MLX_WEIGHTS:
        config = _from_mlx(config, parts)
        steps.append("converted from MLX: transposed")
    settings = read_settings(config)
    plain = config | {"use_dora": False, "init_lora_weights": True, "corda_config": None}
    check_config(plain, settings, max_rank=_ANY_RANK)
    everything = any(
        "unembed_tokens" in module for module in parts
    )  # Tinker adapts its head under "all-linear"
    targets = Targets(config)
    updates: dict[str, Update] = {}
    for module, found in parts.items():
        name = module_of_base(module, known)
        if not (everything or module in targets or name in targets):
            dropped.append(module)
            continue
        if name in updates:
            raise WeightsRefusedError(
                Reason.DUPLICATE_KEY, f"two modules of the file are {safe_repr(name)} in the base"
            )
        if "A" in found and found["A"].shape[0] != settings.rank_of(module):
            raise WeightsRefusedError(
                Reason.RANK_MISMATCH,
                f"{safe_repr(module)} has rank {found['A'].shape[0]}, not {settings.rank_of(module)} as stated",
                hint="the configuration is of another adapter",
                param="r",
            )
        updates[name] = _update(
            module, found, settings.scaling_of(module), dora=config.get("use_dora") is True
        )
    if not updates:
        raise WeightsRefusedError(
            Reason.EMPTY,
            "the configuration names none of the modules in the weights file",
            hint="PEFT would apply nothing of it: correct target_modules",
            param="target_modules",
        )
    if dropped:
        steps.append(f"left out what PEFT does not apply: {len(dropped)}, such as {safe_repr(dropped[0])}")
    return _Source(config, updates, steps)


def _grouped(tensors: Mapping[str, "torch.Tensor"]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the parts of each module's LoRA, and the tensors that change nothing."""
    parts: dict[str, dict[str, Any]] = {}
    dropped: list[str] = []
    for name, tensor in tensors.items():
        part = read_name(name)
        if part is None:
            if not is_frozen(name) and tensor.numel():
                raise not_lora(name)
            continue
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind == "float64":
            tensor = tensor.float()  # noqa: PLW2901  # the same tensor in a served precision
        elif kind not in _DTYPES:
            raise WeightsRefusedError(Reason.BAD_DTYPE, f"{safe_repr(name)} is {kind}", param=WEIGHTS_FILE)
        if tensor.dim() != (1 if part.kind == "m" else 2) and not (part.kind == "m" and tensor.dim() == 2):
            raise WeightsRefusedError(
                Reason.BAD_SHAPE,
                f"{safe_repr(name)} has the shape {list(tensor.shape)}",
                hint="each module needs matrices of its own: those of fused experts are not converted",
                param=WEIGHTS_FILE,
            )
        of_module = parts.setdefault(part.module, {"embedding": part.embedding})
        if part.kind in of_module:
            raise WeightsRefusedError(
                Reason.DUPLICATE_KEY, f"{safe_repr(name)} is there twice, under two names", param=WEIGHTS_FILE
            )
        of_module[part.kind] = tensor.T if part.transposed else tensor
    if not parts:
        raise WeightsRefusedError(
            Reason.EMPTY, "the weights file holds no LoRA", hint="train the adapter first", param=WEIGHTS_FILE
        )
    return parts, dropped


def _update(module: str, found: Mapping[str, Any], scaling: float, *, dora: bool) -> Update:
    a, b, magnitude = found.get("A"), found.get("B"), found.get("m")
    lacking = [name for name, one in (("A", a), ("B", b)) if one is None]
    lacking += ["m"] if dora and magnitude is None else []
    if a is None or b is None or lacking:
        raise WeightsRefusedError(
            Reason.INCOMPLETE,
            f"{safe_repr(module)} has no {lacking[0]}",
            hint="the file is not whole: save the adapter again",
            param=WEIGHTS_FILE,
        )
    if a.shape[0] != b.shape[1]:
        raise WeightsRefusedError(
            Reason.BAD_SHAPE,
            f"{safe_repr(module)} has A {list(a.shape)} and B {list(b.shape)}",
            hint="A is (r, d_in), B is (d_out, r)",
            param=WEIGHTS_FILE,
        )
    return Update(a, b, scaling, magnitude, bool(found["embedding"]))


def _from_mlx(config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter of MLX, which adds scale * (x @ lora_a) @ lora_b."""
    given = config.get("lora_parameters")
    scale = given.get("scale") if isinstance(given, dict) else None
    if config.get("fine_tune_type", "lora") != "lora" or not isinstance(scale, int | float):
        raise ConfigRefusedError(
            Reason.NOT_LORA,
            f"{CONFIG_FILE} is neither PEFT's nor that of a LoRA of MLX",
            hint="a LoRA of MLX has fine_tune_type lora and a scale in lora_parameters",
            param=CONFIG_FILE,
        )
    ranks = {module: int(found["A"].shape[0]) for module, found in parts.items() if "A" in found}
    rank = max(ranks.values(), default=1)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": config.get("model"),
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: scale * own for module, own in ranks.items() if own != rank},
        "target_modules": sorted(parts),
    }


def _without_initial(trained: _Source, initial: _Source, start: str) -> _Source:
    if trained.updates.keys() != initial.updates.keys():
        odd = min(trained.updates.keys() ^ initial.updates.keys())
        raise WeightsRefusedError(
            Reason.INCOMPLETE,
            f"{safe_repr(odd)} is in one of the trained and the initial adapter only",
            hint="--initial is the same adapter, before its training",
            param="initial",
        )
    for name, update in trained.updates.items():
        before = initial.updates[name]
        if (update.a.shape[1], update.b.shape[0]) != (before.a.shape[1], before.b.shape[0]):
            raise WeightsRefusedError(
                Reason.BAD_SHAPE,
                f"{safe_repr(name)} has other widths in the initial adapter",
                param="initial",
            )
    updates = {name: less_initial(one, initial.updates[name]) for name, one in trained.updates.items()}
    return replace(
        trained, updates=updates, steps=[*trained.steps, f"took out the initial adapter of {start}"]
    )


def _without_magnitudes(source: _Source, model: Any, rank: int | None) -> float:
    """Replace each DoRA by a plain LoRA, and return the relative error over all modules."""
    if model is None:
        raise ConfigRefusedError(
            Reason.UNSUPPORTED_FEATURE,
            "the adapter uses DoRA, whose effect depends on the base's weights",
            hint="name the prepared base with --base DIR",
            param="use_dora",
        )
    missed = whole = 0.0
    for name, update in source.updates.items():
        if update.magnitude is None:
            continue
        weight = getattr(dict(model.named_modules()).get(name), "weight", None)
        if update.embedding or weight is None or weight.shape != (update.b.shape[0], update.a.shape[1]):
            raise BaseMismatchError(
                Reason.UNKNOWN_MODULE, f"the base has no linear module {safe_repr(name)} of these widths"
            )
        kept = min(rank or 2 * update.rank, *weight.shape)
        source.updates[name], lost, change = without_magnitude(
            update, update.magnitude, weight.detach(), kept
        )
        missed, whole = missed + lost, whole + change
    error = math.sqrt(missed / whole) if whole else 0.0
    source.steps.append(f"replaced DoRA by its best plain LoRA, which misses {error:.3%} of the change")
    return error


def _config(source: _Source) -> dict[str, Any]:
    """Return PEFT's configuration of the result: each module by its full name, with its rank and scale.

    Where there are more names than a configuration may list, as of many experts, their last parts stand for them.
    """
    ranks = {name: one.rank for name, one in source.updates.items()}
    alphas = {name: one.scaling * one.rank for name, one in source.updates.items()}
    names = ranks.keys() if len(ranks) <= MAX_TARGETS else {name.rpartition(".")[2] for name in ranks}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source.config.get("base_model_name_or_path"),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(names),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _save(updates: Mapping[str, Update], file: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    tensors = {}
    for name, update in updates.items():
        form = "lora_embedding_{}" if update.embedding else "lora_{}.weight"
        for side, matrix in (("A", update.a), ("B", update.b)):
            tensors[f"{PREFIX}{name}.{form.format(side)}"] = matrix.clone().contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def _load(base: Path) -> Any:
    from lorecall.adapters.bases.served_model import load_served_model  # noqa: PLC0415

    return load_served_model(base)
