"""`lorecall adapters train`: train an adapter that memorises a set of texts."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.options import TrainingOptions

PLACE = "{rank}"
_DEFAULT = TrainingOptions(rank=1)


def train(
    base: Annotated[Path, typer.Option(help="A base made by `lorecall base prepare`.")],
    data: Annotated[Path, typer.Option(help='JSON Lines of {"prefix", "target"}.')],
    rank: Annotated[
        list[int], typer.Option(help="LoRA rank; alpha is the same. Repeatable: one adapter for each.")
    ],
    out: Annotated[
        Path, typer.Option(help="The PEFT directory to make; of several ranks, with {rank} in its name.")
    ],
    method: Annotated[str, typer.Option(metavar="sft|memft-ot|memft-sw", help="The loss.")] = _DEFAULT.method,
    layers: Annotated[
        str,
        typer.Option(metavar="LIST", help='"all", or such as 20-29 or 3,7.', show_default="the last but one"),
    ] = _DEFAULT.layers,
    modules: Annotated[
        str, typer.Option(metavar="LIST", help="mlp, attention, all, or module names.")
    ] = _DEFAULT.modules,
    epochs: Annotated[int, typer.Option(help="The most passes over the data.")] = _DEFAULT.epochs,
    lr: Annotated[float, typer.Option(help="Peak learning rate, falling linearly to 0.")] = _DEFAULT.lr,
    batch_size: Annotated[int, typer.Option(help="Texts a step.")] = _DEFAULT.batch_size,
    seed: Annotated[int, typer.Option(help="Of initialisation and order.")] = _DEFAULT.seed,
    stop_over: Annotated[
        float, typer.Option(metavar="P", help="Stop once every target token is over P; 1 never stops.")
    ] = _DEFAULT.stop_over,
) -> None:
    """Train LoRA adapters to recite the targets, against the quantised weights as they will be served."""
    from lorecall.adapters.training.train import train_ranks
    from lorecall.server.cli.common.progress import quiet_libraries, training_bar
    from rich.console import Console

    outs = out_directories(out, rank)
    options = TrainingOptions(
        rank=rank[0],
        method=method,
        layers=layers,
        modules=modules,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        stop_over=stop_over,
    )
    quiet_libraries()
    console = Console(highlight=False, soft_wrap=True)
    with training_bar() as on_step:
        for record, directory in zip(
            train_ranks(base, data, outs, options, on_step), outs.values(), strict=True
        ):
            console.print(
                f"Trained {directory}: rank {record.rank}, {record.steps} steps, "
                f"loss {record.base_loss:.2f} -> {record.loss:.3f}, "
                f"{record.tokens_over_half} of {record.target_tokens} target tokens over 0.5",
                markup=False,
            )


def out_directories(out: Path, ranks: list[int]) -> dict[int, Path]:
    """Return where the adapter of each rank goes.

    Raises:
        UsageError: A rank twice, or several ranks and one directory.
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
