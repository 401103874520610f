"""What several trainings on the same data share: the base, and the input of its adapted layers, computed once."""

from dataclasses import dataclass
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

DRAWS = 5  # of the cached input where activations are rounded: four to train on, the last to measure on


@dataclass(frozen=True)
class TrainingInput:
    """A base and the batches of a training set, ready for the layers from the lowest adapted one up.

    Attributes:
        manifest: Of the base.
        data_digest: Of the training set's file.
        encoded: Its texts as token ids.
        model: The base as it is served; trainings put LoRA on it and take it off again.
        layers: Indices of the layers that will be adapted.
        upper: What every step runs.
        batches: The training set in the order of the seed.
        before: What the base itself makes of it.
        options: What it was prepared for.
    """

    manifest: BaseManifest
    data_digest: str
    encoded: list[Encoded]
    model: Any
    layers: tuple[int, ...]
    upper: UpperPart
    batches: list[Batch]
    before: Measured
    options: TrainingOptions

    def check(self, options: TrainingOptions) -> None:
        """Check that a training may run on this input; rank, method, modules and pace are free.

        Raises:
            UsageError: It needs other layers, batches or another order.
        """
        for name in ("layers", "batch_size", "seed"):
            asked, had = getattr(options, name), getattr(self.options, name)
            if asked != had:
                raise UsageError(
                    f"{name} is {asked!r} and the input was prepared with {had!r}",
                    hint="prepare it anew",
                    param=name,
                )


def prepare_input(base: Path, data: Path, options: TrainingOptions) -> TrainingInput:
    """Load a base and run its lower layers on a training set.

    Args:
        base: A prepared base.
        data: A JSON Lines file of training pairs.
        options: Of the first training; others may differ as `TrainingInput.check` says.

    Raises:
        LorecallError: A wrong base, data file or option.
    """
    manifest = read_base_manifest(base)
    dataset = read_pairs(data)
    from lorecall.adapters.bases.served_model import load_served_model, rounds_activations  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    encoded = encode(AutoTokenizer.from_pretrained(base), dataset.pairs)
    model = load_served_model(base)
    layers = parse_layers(options.layers, len(decoder_layers(model)))
    adapted_modules(model, options)  # a wrong rank or module is refused before the long work
    upper = UpperPart(model, min(layers))
    order = list(encoded)
    Random(options.seed).shuffle(order)  # noqa: S311 (reproducible on purpose)
    size = options.batch_size
    draws = DRAWS if rounds_activations(manifest.scheme) else 1
    batches = [
        upper.prepare(order[start : start + size], draws, options.seed + start)
        for start in range(0, len(order), size)
    ]
    before = measure(upper, batches)
    return TrainingInput(manifest, dataset.digest, encoded, model, layers, upper, batches, before, options)


def adapted_modules(model: Any, options: TrainingOptions) -> tuple[str, ...]:
    """Return the names of the modules that the options adapt.

    Raises:
        UsageError: The base has no such module, or none that is as wide as the rank.
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
