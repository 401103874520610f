"""`lorecall sweep`: train a grid of adapters, for the memory law."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.options import TrainingOptions
from lorecall.server.cli.common.console import note
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
    TrainingTexts,
)

_DEFAULT = TrainingOptions(rank=1)


def sweep(
    base: PreparedBase,
    data: TrainingTexts,
    ranks: Annotated[str, typer.Option(metavar="LIST", help="LoRA ranks, such as 1,2,4,8.")],
    lengths: Annotated[str, typer.Option(metavar="LIST", help="Target tokens, such as 200,400,800.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.csv", help="The table of results; what it holds is kept.")
    ],
    methods: Annotated[str, typer.Option(metavar="LIST", help="sft, memft-ot, memft-sw.")] = "sft",
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds, such as 0,1,2.")] = "0",
    layers: Layers = _DEFAULT.layers,
    modules: Modules = _DEFAULT.modules,
    epochs: Epochs = _DEFAULT.epochs,
    lr: LearningRate = _DEFAULT.lr,
    schedule: Schedule = _DEFAULT.schedule,
    batch_size: BatchSize = _DEFAULT.batch_size,
    dropout: Dropout = _DEFAULT.dropout,
    device: Device = _DEFAULT.device,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Texts that are not trained on: record the loss on them as well."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS", help="Train the cells in tasks of Ray, lengths and seeds apart."
        ),
    ] = None,
) -> None:
    """Train one adapter for each rank, length, method and seed, and record how much each lowers the base's loss.

    It can be stopped at any time; run again, it continues where it stopped.
    """
    from lorecall.adapters.training.sweep import Grid, run_sweep
    from lorecall.server.cli.common.progress import quiet_libraries, training_bar

    grid = Grid(
        ranks=_numbers("ranks", ranks),
        lengths=_numbers("lengths", lengths),
        methods=methods.split(","),
        seeds=_numbers("seeds", seeds, least=0),
    )
    options = TrainingOptions(
        rank=1,
        layers=layers,
        modules=modules,
        epochs=epochs,
        lr=lr,
        schedule=schedule,
        batch_size=batch_size,
        dropout=dropout,
        device=device,
    )
    quiet_libraries()
    with ExitStack() as stack:
        if ray is None:
            on_step = stack.enter_context(training_bar())
            cells = run_sweep(base, data, out, grid, options, on_step, held_out)
        else:
            from lorecall.audit.bulk.cluster import started
            from lorecall.audit.bulk.sweep import sweep_on_ray

            stack.enter_context(started(ray))
            cells = sweep_on_ray(base, data, out, grid, options, held_out)
        for number, cell in enumerate(cells, start=1):
            what = "there already"
            if cell.result is not None:
                what = (
                    f"length {cell.result.length}, deltaL {cell.result.deltaL:.3f}, {cell.result.steps} steps"
                )
            name = f"rank {cell.key.rank}, {cell.key.method}, seed {cell.key.seed}"
            note(f"{number}/{len(grid)}  {name}: {what}")
    typer.echo(out)


def _numbers(option: str, text: str, least: int = 1) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UsageError(
            f"--{option} {text!r} is no list of numbers",
            hint=f"whole numbers from {least}, by comma",
            param=option,
        )
    return numbers
