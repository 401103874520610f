"""Compute once what trainings on the same data share: the base, and the input of its adapted layers."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from lorecall.adapters.bases.prepare import BaseManifest, read_base_manifest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.options import TrainingOptions, check_rank, parse_layers, parse_modules
from lorecall.adapters.training.pairs import read_pairs
from lorecall.adapters.training.upper_layers import (
    Batch,
    Encoded,
    Measured,
    UpperPart,
    decoder_layers,
    encode,
    measure,
)

# Variants of the cached input where activations are rounded: four for training, the last for measuring.
DRAWS = 5


@dataclass(frozen=True)
class TrainingInput:
    """A base, and a training set as input of its layers from the lowest adapted one up.

    Attributes:
        manifest: The manifest of the base.
        data_digest: sha256 (hex) of the training set's file.
        encoded: Its texts as token ids.
        model: The base with the engine's arithmetic; each training adds LoRA to it and removes it again.
        layers: Indices of the layers that will be adapted.
        upper: The layers that every step runs.
        batches: Its different texts, those with the most copies first, else in the order that the seed gives.
        before: Loss and probabilities of the base itself on it.
        held_out: Texts that are measured after a training, and not trained on.
        held_out_before: Loss and probabilities of the base on these; None if there are none.
        options: The options that it was prepared for.
    """

    manifest: BaseManifest
    data_digest: str
    encoded: list[Encoded]
    model: Any
    layers: tuple[int, ...]
    upper: UpperPart
    batches: list[Batch]
    before: Measured
    held_out: list[Batch]
    held_out_before: Measured | None
    options: TrainingOptions

    def check(self, options: TrainingOptions) -> None:
        """Check that a training may run on this input; rank, method, modules, epochs and learning rate are free.

        Raises:
            UsageError: It needs other layers, another batch size or another seed.
        """
        for name in ("layers", "batch_size", "seed"):
            asked, had = getattr(options, name), getattr(self.options, name)
            if asked != had:
                raise UsageError(
                    f"{name} is {asked!r} and the input was prepared with {had!r}",
                    hint="prepare it anew",
                    param=name,
                )


def prepare_input(
    base: Path, data: Path, options: TrainingOptions, held_out: Path | None = None
) -> TrainingInput:
    """Load a base and run its lower layers on a training set.

    Args:
        base: A prepared base.
        data: A JSON Lines file of training pairs.
        options: The options of the first training; `TrainingInput.check` says how others may differ.
        held_out: A file of pairs to measure after each training.

    Raises:
        LorecallError: The base, the data file or an option is wrong.
    """
    manifest = read_base_manifest(base)
    dataset = read_pairs(data)
    from lorecall.adapters.bases.served_model import load_served_model, rounds_activations  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = encode(tokenizer, dataset.pairs)
    others = encode(tokenizer, read_pairs(held_out).pairs) if held_out else []
    model = load_served_model(base).to(device_of(options.device))
    layers = parse_layers(options.layers, len(decoder_layers(model)))
    adapted_modules(model, options)  # refuses a wrong rank or module before the long computation
    upper = UpperPart(model, min(layers))
    order = list(encoded)
    Random(options.seed).shuffle(order)  # noqa: S311 (reproducible on purpose)
    rounds = rounds_activations(manifest.scheme)
    batches = _batches(upper, order, options, DRAWS if rounds else 1)
    measured_only = _batches(upper, others, replace(options, epochs=1), 2 if rounds else 1)
    return TrainingInput(
        manifest=manifest,
        data_digest=dataset.digest,
        encoded=encoded,
        model=model,
        layers=layers,
        upper=upper,
        batches=batches,
        before=measure(upper, batches),
        held_out=measured_only,
        held_out_before=measure(upper, measured_only) if measured_only else None,
        options=options,
    )


def _batches(upper: UpperPart, order: list[Encoded], options: TrainingOptions, draws: int) -> list[Batch]:
    """Run the lower layers once on each different text, in no more draws than the training will see and one."""
    counted = Counter(order).most_common()
    batches = []
    for start in range(0, len(counted), options.batch_size):
        texts, copies = zip(*counted[start : start + options.batch_size], strict=True)
        seen = options.epochs * max(copies)
        batches.append(upper.prepare(texts, min(draws, seen + 1), options.seed + start, copies))
    return batches


def device_of(name: str) -> str:
    """Return the device to train on: "cuda" or "cpu".

    Raises:
        UsageError: "cuda" was asked for, and there is none.
    """
    import torch  # noqa: PLC0415

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageError("PyTorch finds no CUDA GPU here", hint="train with --device cpu", param="device")
    return "cuda" if there and name != "cpu" else "cpu"


def adapted_modules(model: Any, options: TrainingOptions) -> tuple[str, ...]:
    """Return the names of the modules that the options adapt.

    Raises:
        UsageError: The base has no such module, or one that is narrower than the rank.
    """
    from torch import nn  # noqa: PLC0415

    linear = {
        name.rpartition(".")[2]: module
        for name, module in decoder_layers(model).named_modules()
        if isinstance(module, nn.Linear)
    }
    modules = parse_modules(options.modules, linear)
    check_rank(options.rank, [width for name in modules for width in linear[name].weight.shape])
    return modules
