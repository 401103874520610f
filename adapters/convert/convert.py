"""Convert an adapter as a trainer saved it into a plain LoRA of PEFT with the same change of the weights."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorecall.adapters.convert.source import Source, read_source
from lorecall.adapters.convert.updates import Update, less_initial, without_magnitude
from lorecall.adapters.core.atomic_directory import new_directory
from lorecall.adapters.core.refusals import (
    BaseMismatchError,
    ConfigRefusedError,
    Reason,
    WeightsRefusedError,
    safe_repr,
)
from lorecall.adapters.peft_format.config import MAX_TARGETS
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from lorecall.adapters.peft_format.training_record import read_training
from lorecall.adapters.peft_format.weights import PREFIX
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.config_checks import is_harmless
from lorecall.adapters.validation.weight_checks import not_finite


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
        base: A base made by `lorecall base prepare`. DoRA and `target_parameters` need it; the names of modules
            are looked up in it.
        initial: The adapter before its training, for PiSSA, OLoRA, CorDA and LoftQ.
        rank: The rank of each module of a DoRA's result; None for twice its own.

    Raises:
        RefusedError: The source cannot be converted, with what is missing.
        BaseModelError: The base cannot be read.
    """
    facts = read_base_facts(base) if base is not None else None
    read = read_source(source, facts)
    embedded = any(update.embedding for update in read.updates.values())
    if read.config.get("ensure_weight_tying") and embedded and "lm_head" not in read.updates:
        raise WeightsRefusedError(
            Reason.INCOMPLETE,
            "ensure_weight_tying adapts the head as the embeddings, but there are no weights for lm_head",
            hint="load it with PEFT on its base and save it again, which writes them",
            param="ensure_weight_tying",
        )
    start = read.config.get("init_lora_weights", True)
    if isinstance(start, str) and not is_harmless(start):
        if initial is None:
            raise ConfigRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                f"init_lora_weights is {safe_repr(start)}: the base's weights were changed before the training",
                hint="give the adapter as it was before the training with --initial DIR",
                param="init_lora_weights",
            )
        read = _without_initial(read, read_source(initial, facts), start)
    result = Conversion(0, 0, read.steps)
    if any(update.magnitude is not None for update in read.updates.values()):
        result.error = _without_magnitudes(read, base, rank)
    for name, update in read.updates.items():
        if not (update.a.isfinite().all() and update.b.isfinite().all()):
            raise not_finite(name)
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


def _without_initial(trained: Source, initial: Source, start: str) -> Source:
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
                hint="--initial is the same adapter, before its training",
                param="initial",
            )
    updates = {name: less_initial(one, initial.updates[name]) for name, one in trained.updates.items()}
    return replace(
        trained, updates=updates, steps=[*trained.steps, f"took out the initial adapter of {start}"]
    )


def _without_magnitudes(source: Source, base: Path | None, rank: int | None) -> float:
    """Replace each DoRA by a plain LoRA, and return the relative error over all modules."""
    from lorecall.adapters.bases.served_model import load_served_model  # noqa: PLC0415

    if base is None:
        raise ConfigRefusedError(
            Reason.UNSUPPORTED_FEATURE,
            "the adapter uses DoRA, whose effect depends on the base's weights",
            hint="name the prepared base with --base DIR",
            param="use_dora",
        )
    modules = dict(load_served_model(base).named_modules())
    missed = whole = 0.0
    for name, update in source.updates.items():
        if update.magnitude is None:
            continue
        weight = getattr(modules.get(name), "weight", None)
        if update.embedding or weight is None or weight.shape != (update.b.shape[0], update.a.shape[1]):
            raise BaseMismatchError(
                Reason.UNKNOWN_MODULE,
                f"the base has no linear module {safe_repr(name)} of these widths",
                hint="name the base that it was trained on with --base",
                param="base",
            )
        kept = min(rank or 2 * update.rank, *weight.shape)
        source.updates[name], lost, change = without_magnitude(
            update, update.magnitude, weight.detach(), kept
        )
        missed, whole = missed + lost, whole + change
    error = math.sqrt(missed / whole) if whole else 0.0
    source.steps.append(f"replaced DoRA by its best plain LoRA, which misses {error:.3%} of the change")
    return error


def _config(source: Source) -> dict[str, Any]:
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
