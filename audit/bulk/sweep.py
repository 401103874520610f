"""The sweep of the memory law as Ray tasks: one for each length and seed, whose cells share their preparation."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from lorecall.adapters.core.errors import LorecallError, ScorerError
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.sweep import Cell, Grid, append_cell, finished_cells, run_sweep


def sweep_on_ray(
    base: Path, data: Path, out: Path, grid: Grid, options: TrainingOptions, held_out: Path | None = None
) -> Iterator[Cell]:
    """Train the cells of `grid` that `out` lacks in tasks of Ray, which must be started; yield every cell.

    The file is that of `run_sweep`; the lines are in the order in which tasks end. A killed task is done again.

    Args:
        base: A prepared base, which every node can read, like the next.
        data: JSON Lines of training pairs.
        out: The CSV file; written here alone.
        grid: The cells.
        options: The other options.
        held_out: Pairs to measure, which every node can read too.

    Raises:
        UsageError: As for `run_sweep`.
        ScorerError: A task failed for another reason.
    """
    import ray  # noqa: PLC0415  optional
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    finished_cells(out)  # cuts off what a kill left of a line
    known = out.read_bytes() if out.exists() else b""
    task = ray.remote(_cells)
    files = base.resolve(), data.resolve(), None if held_out is None else held_out.resolve()
    waiting = [
        task.remote(files, known, replace(grid, lengths=(length,), seeds=(seed,)), options)
        for length, seed in product(grid.lengths, grid.seeds)
    ]
    try:
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            for cell in ray.get(ready):
                if cell.result is not None:
                    append_cell(out, cell.key, cell.result)
                yield cell
    except RayTaskError as error:
        if isinstance(error.cause, LorecallError):
            raise error.cause from None
        raise ScorerError(f"a task of the sweep failed: {type(error.cause).__name__}") from None
    except RayError as error:
        raise ScorerError(f"Ray stopped the sweep: {type(error).__name__}") from None


def _cells(
    files: tuple[Path, Path, Path | None], known: bytes, grid: Grid, options: TrainingOptions
) -> list[Cell]:
    base, data, held_out = files
    with TemporaryDirectory(prefix="lorecall-") as folder:
        table = Path(folder) / "sweep.csv"
        table.write_bytes(known)
        return list(run_sweep(base, data, table, grid, options, held_out=held_out))
