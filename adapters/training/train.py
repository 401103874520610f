"""Train LoRA adapters that memorise, with PEFT: the loss is on target tokens, the arithmetic is the engine's."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lorecall.adapters.bases.prepare import BaseManifest
from lorecall.adapters.core.atomic_directory import new_directory
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE
from lorecall.adapters.training.last_projection import LastProjection, last_projection
from lorecall.adapters.training.likely_tokens import LikelyTokens
from lorecall.adapters.training.losses import method_of, weighted_loss
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.prepare_input import TrainingInput, adapted_modules, prepare_input
from lorecall.adapters.training.schedules import schedule_of
from lorecall.adapters.training.upper_layers import (
    Batch,
    Measured,
    UpperPart,
    measure,
)

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
CLIP = 1.0
_TOOLS = ("lorecall", "torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One step of a run, for a progress display."""

    step: int
    steps: int
    loss: float
    over_half: int
    target_tokens: int


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """The contents of `lorecall-training.json`.

    Losses are means over target tokens in nats. Where the cached input has several variants (see `upper_layers`),
    losses, tokens over 0.5 and the smallest probability were measured on one that was not used for training.
    Held-out losses are of texts that were not trained on, null where none were given.
    """

    data_digest: str
    base_digest: str
    scheme: str
    method: str
    rank: int
    layers: tuple[int, ...]
    modules: tuple[str, ...]
    seed: int
    epochs: int
    steps: int
    lr: float
    schedule: str
    batch_size: int
    dropout: float
    stop_over: float
    stopped_early: bool
    pairs: int
    inexact_boundaries: int
    target_tokens: int
    tokens_over_half: int
    base_tokens_over_half: int
    texts_over_half: int
    loss: float
    base_loss: float
    min_p: float
    held_out_loss: float | None
    held_out_base_loss: float | None
    created_with: dict[str, str]
    schema_version: int = SCHEMA_VERSION


def train_ranks(
    base: Path,
    data: Path,
    outs: Mapping[int, Path],
    options: TrainingOptions,
    on_step: Callable[[TrainingProgress], None] = lambda _progress: None,
) -> Iterator[TrainingRecord]:
    """Train one adapter for each rank, on input that is computed once, and yield its record.

    Each is written when it is done, as a PEFT directory with `lorecall-training.json`. The same inputs give the
    same bytes on the same machine and number of threads.

    Args:
        base: A prepared base.
        data: A JSON Lines file of training pairs.
        outs: The directory to make for each rank; none may exist.
        options: The options, except for the rank.
        on_step: Called after every step.

    Raises:
        LorecallError: The base, the data file, an option or a directory is wrong; adapters already written stay.
    """
    for out in outs.values():
        _check_free(out)
    asked = [replace(options, rank=rank) for rank in outs]
    ready = prepare_input(base, data, max(asked, key=lambda one: one.rank))
    for one in asked:
        yield train_on(ready, outs[one.rank], one, on_step)


def train_on(
    ready: TrainingInput,
    out: Path,
    options: TrainingOptions,
    on_step: Callable[[TrainingProgress], None] = lambda _progress: None,
) -> TrainingRecord:
    """Train one adapter on prepared input and write it to `out`, which must not exist.

    Raises:
        LorecallError: An option or `out` is wrong, or the input was prepared for other options.
    """
    import torch  # noqa: PLC0415

    _check_free(out)
    ready.check(options)
    torch.manual_seed(options.seed)
    peft_model, modules = _add_lora(ready, options)
    try:
        with ready.upper.trained(ready.batches[0]):
            epochs, steps = _optimise(ready.upper, ready.batches, options, peft_model, on_step)
        after = measure(ready.upper, ready.batches)
        held_out = measure(ready.upper, ready.held_out) if ready.held_out else None
        record = _record(ready, options, modules, (after, held_out), epochs, steps)
        with new_directory(out) as work:
            _save(peft_model, ready.manifest, record, work)
    finally:
        peft_model.unload()
    return record


def _check_free(out: Path) -> None:
    if out.exists():
        raise UsageError(f"{out} exists", hint="name a new directory for the adapter", param="out")


def _record(
    ready: TrainingInput,
    options: TrainingOptions,
    modules: tuple[str, ...],
    measured: tuple[Measured, Measured | None],
    epochs: int,
    steps: int,
) -> TrainingRecord:
    after, held_out = measured
    return TrainingRecord(
        data_digest=ready.data_digest,
        base_digest=ready.manifest.digest,
        scheme=ready.manifest.scheme,
        method=options.method,
        rank=options.rank,
        layers=ready.layers,
        modules=modules,
        seed=options.seed,
        epochs=epochs,
        steps=steps,
        lr=options.lr,
        schedule=options.schedule,
        batch_size=options.batch_size,
        dropout=options.dropout,
        stop_over=options.stop_over,
        stopped_early=epochs < options.epochs,
        pairs=len(ready.encoded),
        inexact_boundaries=sum(not one.exact for one in ready.encoded),
        target_tokens=sum(len(one.target) for one in ready.encoded),
        tokens_over_half=after.over_half,
        base_tokens_over_half=ready.before.over_half,
        texts_over_half=after.texts_over_half,
        loss=after.loss,
        base_loss=ready.before.loss,
        min_p=after.min_p,
        held_out_loss=None if held_out is None else held_out.loss,
        held_out_base_loss=None if ready.held_out_before is None else ready.held_out_before.loss,
        created_with={tool: metadata.version(tool) for tool in _TOOLS},
    )


def _add_lora(ready: TrainingInput, options: TrainingOptions) -> tuple[Any, tuple[str, ...]]:
    """Add LoRA to the modules that the options name; with B = 0 it changes nothing yet."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    modules = adapted_modules(ready.model, options)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.rank,
        lora_dropout=options.dropout,
        target_modules=list(modules),
        layers_to_transform=list(ready.layers),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(ready.model, config).eval(), modules


def _optimise(
    upper: UpperPart,
    batches: list[Batch],
    options: TrainingOptions,
    peft_model: Any,
    on_step: Callable[[TrainingProgress], None],
) -> tuple[int, int]:
    """Train until every token's probability is over `stop_over` or the schedule ends; return (epochs, steps)."""
    import torch  # noqa: PLC0415

    dropouts = [module for module in peft_model.modules() if isinstance(module, torch.nn.Dropout)]
    parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.0)
    visits = [int(batch.copies.max()) for batch in batches]
    method = method_of(options.method, sum(int(batch.rows.max()) + 1 for batch in batches))
    shares = [
        max(1, round(len(batches) * method.share(epoch / options.epochs))) for epoch in range(options.epochs)
    ]
    steps = sum(sum(visits[:share]) for share in shares)
    schedule = schedule_of(options.schedule, optimizer, steps, sum(visits))
    random = Random(options.seed)  # noqa: S311 (reproducible on purpose)
    # Losses at their last step.
    latest = [torch.full(one.targets.shape, torch.inf, device=one.targets.device) for one in batches]
    likely: Sequence[LastProjection | LikelyTokens] = last_projection(upper, batches, peft_model) or [
        LikelyTokens(upper, batch) for batch in batches
    ]
    done = 0
    for epoch, share in enumerate(shares):
        visible = [(index, visit) for index in range(share) for visit in range(visits[index])]
        random.shuffle(visible)
        for index, visit in visible:  # a text with n copies is trained on at n visits of its batch
            draw = (epoch + visit) % max(1, len(batches[index].hidden) - 1)
            _drop(dropouts, on=True)
            losses, correct = likely[index].losses(draw)
            _drop(dropouts, on=False)
            trained = batches[index].copies > visit
            loss = weighted_loss(losses[trained], correct[trained], method)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            schedule.after_step()
            done += 1
            latest[index] = losses.detach()
            on_step(_progress(done, steps, latest))
        every = torch.cat(latest)
        if schedule.after_epoch(float(every.mean())) or (
            bool((torch.exp(-every) > options.stop_over).all())
            and measure(upper, batches).min_p > options.stop_over
        ):
            return epoch + 1, done
    return options.epochs, done


def _drop(dropouts: "list[torch.nn.Dropout]", *, on: bool) -> None:
    for dropout in dropouts:
        dropout.train(on)


def _progress(step: int, steps: int, latest: "list[torch.Tensor]") -> TrainingProgress:
    """Return the progress of a run, from the losses of each token at its last step."""
    import torch  # noqa: PLC0415

    losses = torch.cat(latest)
    seen = losses[losses.isfinite()]
    return TrainingProgress(
        step, steps, float(seen.mean()), int((torch.exp(-losses) > 0.5).sum()), len(losses)
    )


def _save(peft_model: Any, base: BaseManifest, record: TrainingRecord, out: Path) -> None:
    """Write the PEFT directory; the same adapter gives the same bytes."""
    peft_model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    config = json.loads((out / CONFIG_FILE).read_text())
    config["base_model_name_or_path"] = base.name
    config["target_modules"] = sorted(config["target_modules"])  # PEFT holds a set, whose order is random
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / TRAINING_FILE).write_text(json.dumps(asdict(record), indent=2) + "\n")
