"""The map of a bulk audit: Ray Data streams the blocks through workers, and each block's rows become one file."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import ScorerError, UsageError
from lorecall.audit.bulk.plan import BulkPlan
from lorecall.audit.bulk.rows import PART
from lorecall.audit.bulk.spool import Block
from lorecall.audit.bulk.worker import Asked, Job, Opener, Worker
from lorecall.audit.runs.single import AuditSettings, Progress, no_progress

ACTOR_CPUS = 0.01
"""Of an actor that mostly waits for servers: there may be many to a core."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers.

    Attributes:
        actors: How many.
        cpus: Cores that Ray reserves for each.
        gpus: GPUs that Ray reserves for each.
    """

    actors: int
    cpus: float = ACTOR_CPUS
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a bulk audit keeps what it needs to go on.

    Attributes:
        blocks: The snippets and the plan; all workers must be able to read it.
        parts: The rows so far, one file for each block and group of adapters.
    """

    blocks: Path
    parts: Path

    def part(self, group: int, block: Block) -> Path:
        """Return the file of one block's rows."""
        return self.parts / f"{group:05}" / block.file


def run_bulk(
    plan: BulkPlan,
    folders: Folders,
    settings: AuditSettings,
    openers: tuple[Opener, ...],
    pool: Pool,
    *,
    show: bool = False,
    is_done: Callable[[int], bool] = lambda _adapter: False,
    progress: Progress = no_progress,
) -> Iterator[range]:
    """Judge every snippet for every adapter, but for what is done; Ray must be started.

    A worker that is killed is started again, and its block done again; a block's file appears whole, so there is
    one row for each adapter and snippet however often that happens.

    Args:
        plan: What to do.
        folders: Where the blocks are, and where rows go.
        settings: Of the audit.
        openers: Each opens one server, or the one an engine.
        pool: The workers.
        show: Whether rows show texts.
        is_done: Says of an adapter, by its number, that all is done and its rows may be gone.
        progress: Called with the pairs of adapter and snippet done, and their total.

    Yields:
        The numbers of adapters of which all rows are there; their rows are removed when the caller goes on.

    Raises:
        ScorerError: No server gave the rows of a block, or a worker failed for another reason.
    """
    snippets = sum(plan.sizes.values())
    for number, members in enumerate(plan.groups):
        if not all(map(is_done, members)):
            _map_group(
                plan, number, folders, _job(plan, members, settings, openers, show=show), pool, progress
            )
            yield members
        shutil.rmtree(folders.parts / f"{number:05}", ignore_errors=True)
        progress(snippets * members.stop, snippets * len(plan.adapters))


def _job(
    plan: BulkPlan, members: range, settings: AuditSettings, openers: tuple[Opener, ...], *, show: bool
) -> Job:
    adapters = tuple(
        Asked(i, one.adapter.name, one.adapter.version, one.epsilon.value)
        for i, one in ((i, plan.adapters[i]) for i in members)
    )
    return Job(openers, plan.engine, adapters, settings, settings.extraction.on(plan.engine), show)


def _map_group(
    plan: BulkPlan, number: int, folders: Folders, job: Job, pool: Pool, progress: Progress
) -> None:
    """Judge the blocks that are left for one group of adapters, and write each one's rows."""
    snippets, adapters = sum(plan.sizes.values()), len(job.adapters)
    left = [
        block for block in plan.blocks if not _is_done(folders.part(number, block), block.rows * adapters)
    ]
    total = snippets * len(plan.adapters)
    done = snippets * plan.groups[number].stop - adapters * sum(block.rows for block in left)
    progress(done, total)
    folders.part(number, plan.blocks[0]).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for block, rows in _outcomes(left, folders.blocks, job, pool) if left else ():
        if rows.num_rows != block.rows * adapters:
            raise ScorerError(f"block {block.number} has {rows.num_rows} rows, not {block.rows * adapters}")
        _write(folders.part(number, block), rows)
        done += rows.num_rows
        progress(done, total)


def _is_done(path: Path, rows: int) -> bool:
    """Return whether a block's rows are there; a file appears whole, so its footer says it."""
    return path.exists() and pq.read_metadata(path).num_rows == rows


def _write(path: Path, rows: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes(), private=True)


def _outcomes(blocks: list[Block], folder: Path, job: Job, pool: Pool) -> Iterator[tuple[Block, pa.Table]]:
    """Yield each block with its rows, in the order in which they are done."""
    import ray.data  # noqa: PLC0415  it takes seconds to import
    from ray.exceptions import RayError  # noqa: PLC0415

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    _check_resources(pool, ray.cluster_resources())
    waiting = {block.number: block for block in blocks}
    paths: list[dict[str, Any]] = [{"path": str((folder / block.file).resolve())} for block in blocks]
    rows = ray.data.from_items(paths, override_num_blocks=len(paths)).map_batches(
        Worker,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(blocks))),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    pending: dict[int, list[pa.Table]] = {}
    try:
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            for failure in table.column("failure").drop_null().to_pylist():
                raise ScorerError(f"the audit stopped: {failure}", hint="run it again to go on")
            yield from _complete(table, waiting, pending, len(job.adapters))
    except RayError as error:
        raise ScorerError(
            f"Ray stopped the audit: {type(error).__name__}", hint="run it again to go on"
        ) from None  # its message holds a traceback
    if waiting:
        raise ScorerError(f"{len(waiting)} blocks did not come back", hint="run it again to go on")


def _check_resources(pool: Pool, there: Mapping[str, float]) -> None:
    """Check that Ray can start one worker, for which it would otherwise wait without a word.

    Raises:
        UsageError: The cluster has too little.
    """
    for name, wanted in (("CPU", pool.cpus), ("GPU", pool.gpus)):
        if there.get(name, 0.0) < wanted:
            raise UsageError(
                f"a worker needs {wanted:g} of {name}, and Ray has {there.get(name, 0.0):g} in all",
                hint="connect to a cluster that has it with --ray ADDRESS",
                param=name.lower() + "s",
            )


def _complete(
    table: pa.Table, waiting: dict[int, Block], pending: dict[int, list[pa.Table]], adapters: int
) -> Iterator[tuple[Block, pa.Table]]:
    """Yield the blocks of which all rows are there now; Ray may cut or join what workers return."""
    numbers = table.column("block")
    for number in sorted(set(numbers.to_pylist())):
        part = table.filter(pc.equal(numbers, number)).select(PART.names)
        pending.setdefault(number, []).append(part)
        block = waiting[number]
        if sum(one.num_rows for one in pending[number]) >= block.rows * adapters:
            yield waiting.pop(number), pa.concat_tables(pending.pop(number))
