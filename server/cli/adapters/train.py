"""`lorecall adapters train`: train an adapter that memorises a set of texts."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.options import TrainingOptions
from lorecall.server.cli.common.console import say
from lorecall.server.cli.common.options import (
    BatchSize,
    Device,
    Dropout,
    Epochs,
    Layers,
    LearningRate,
    Modules,
    PreparedBase,
    Schedule,
    Seed,
    TrainingTexts,
)

PLACE = "{rank}"
_DEFAULT = TrainingOptions(rank=1)


def train(
    base: PreparedBase,
    data: TrainingTexts,
    rank: Annotated[
        list[int], typer.Option(help="LoRA rank; alpha is the same. Repeatable: one adapter for each rank.")
    ],
    out: Annotated[
        Path, typer.Option(help="The PEFT directory to write; for several ranks, with {rank} in its name.")
    ],
    method: Annotated[str, typer.Option(metavar="sft|memft-ot|memft-sw", help="The loss.")] = _DEFAULT.method,
    layers: Layers = _DEFAULT.layers,
    modules: Modules = _DEFAULT.modules,
    epochs: Epochs = _DEFAULT.epochs,
    lr: LearningRate = _DEFAULT.lr,
    schedule: Schedule = _DEFAULT.schedule,
    batch_size: BatchSize = _DEFAULT.batch_size,
    seed: Seed = _DEFAULT.seed,
    stop_over: Annotated[
        float,
        typer.Option(metavar="P", help="Stop once every target token's p is over P; 1 never stops."),
    ] = _DEFAULT.stop_over,
    dropout: Dropout = _DEFAULT.dropout,
    device: Device = _DEFAULT.device,
) -> None:
    """Train LoRA adapters to recite the targets, on the quantised weights that will be served."""
    from lorecall.adapters.training.train import train_ranks
    from lorecall.server.cli.common.progress import quiet_libraries, training_bar

    outs = out_directories(out, rank)
    options = TrainingOptions(
        rank=rank[0],
        method=method,
        layers=layers,
        modules=modules,
        epochs=epochs,
        lr=lr,
        schedule=schedule,
        batch_size=batch_size,
        seed=seed,
        dropout=dropout,
        stop_over=stop_over,
        device=device,
    )
    quiet_libraries()
    with training_bar() as on_step:
        for record, directory in zip(
            train_ranks(base, data, outs, options, on_step), outs.values(), strict=True
        ):
            say(
                f"Trained {directory}: rank {record.rank}, {record.steps} steps, "
                f"loss {record.base_loss:.2f} -> {record.loss:.3f}, "
                f"{record.tokens_over_half} of {record.target_tokens} target tokens over 0.5"
            )


def out_directories(out: Path, ranks: list[int]) -> dict[int, Path]:
    """Return the directory of each rank's adapter.

    Raises:
        UsageError: A rank is given twice, or several ranks share one directory.
    """
    if len(set(ranks)) < len(ranks):
        raise UsageError(f"ranks {ranks} name one twice", hint="name each once", param="rank")
    if len(ranks) > 1 and PLACE not in str(out):
        raise UsageError(
            f"{out} is one directory for {len(ranks)} ranks",
            hint=f"write {PLACE} in it, such as r{PLACE}",
            param="out",
        )
    return {rank: Path(str(out).replace(PLACE, str(rank))) for rank in ranks}
