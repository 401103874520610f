"""The reduce of a bulk audit: from the rows of one adapter to its result, as an audit on one machine gives it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lorecall.adapters.core.atomic_file import moved_when_whole
from lorecall.audit.bulk.plan import BulkPlan, Planned
from lorecall.audit.bulk.rows import PART, RESULT, group_of, judged_of
from lorecall.audit.bulk.run import Folders
from lorecall.audit.records import AuditResult
from lorecall.audit.runs.single import AuditSettings, secret_of
from lorecall.audit.stats.calibration import calibrate
from lorecall.audit.stats.tally import Tally
from lorecall.audit.verdicts import Group


def report_file(out: Path, adapter: Planned) -> Path:
    """Return the file of an adapter's report; it is written last."""
    return out / "reports" / f"{key_of(adapter)}.json"


def key_of(adapter: Planned) -> str:
    """Return an adapter's version, or its name, as a file's name, where that is not known."""
    return adapter.adapter.version or quote(adapter.adapter.name, safe="")


def result_file(out: Path, adapter: Planned) -> Path:
    """Return the file of an adapter's rows."""
    return out / "results" / f"{key_of(adapter)}.parquet"


def reduce_adapter(
    plan: BulkPlan, number: int, folders: Folders, settings: AuditSettings, out: Path
) -> AuditResult:
    """Count an adapter's rows, compare them with the controls, and write them with their verdicts.

    The rows are read twice; in memory are some sixty bytes of each.

    Args:
        plan: The audit.
        number: The adapter's.
        folders: Where the rows are.
        settings: Of the audit.
        out: Where `results/VERSION.parquet` goes.

    Returns:
        The result, without any snippet's evidence.
    """
    planned = plan.adapters[number]
    tallies = {group: Tally() for group in plan.sizes}
    for row in _rows(plan, number, folders):
        tallies[group_of(row)].add(judged_of(row))
    rate = settings.bounds.false_discovery_rate
    calibration, membership = calibrate(tallies, plan.sources, rate, settings.confidence)
    _write(plan, number, folders, tallies, result_file(out, planned))
    return AuditResult(
        adapter=planned.adapter,
        engine=plan.engine,
        epsilon=planned.epsilon,
        bounds=settings.bounds,
        seed=settings.seed,
        confidence=settings.confidence,
        views=tuple(view.label for view in settings.views),
        sources=plan.sources,
        snippets=(),
        started=plan.started,
        seconds=(datetime.now(UTC) - datetime.fromisoformat(plan.started)).total_seconds(),
        summaries={group: tally.summary(settings.confidence) for group, tally in tallies.items()},
        calibration=calibration,
        membership=membership,
        by_tag=tallies[Group.CANDIDATES].by_tag(settings.confidence),
        system=secret_of(settings.views, "system"),
        template=secret_of(settings.views, "template"),
        extraction=settings.extraction.on(plan.engine),
        checked_share=settings.checked_share,
    )


def _tables(plan: BulkPlan, number: int, folders: Folders) -> Iterator[pa.Table]:
    """Yield the rows of an adapter, block by block, in the order of the sets."""
    group = next(i for i, members in enumerate(plan.groups) if number in members)
    for block in plan.blocks:
        table = pq.read_table(folders.part(group, block), schema=PART)
        yield table.filter(pc.equal(table.column("adapter"), number)).sort_by("place")


def _rows(plan: BulkPlan, number: int, folders: Folders) -> Iterator[dict[str, Any]]:
    for table in _tables(plan, number, folders):
        yield from table.to_pylist()


def _write(plan: BulkPlan, number: int, folders: Folders, tallies: dict[Group, Tally], path: Path) -> None:
    """Write the rows with their verdicts beside the controls; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # of a kill it is written over
    adapter, places = plan.adapters[number].adapter, dict.fromkeys(tallies, 0)
    with moved_when_whole(part, path), pq.ParquetWriter(part, RESULT, compression="zstd") as writer:
        for table in _tables(plan, number, folders):
            rows = table.to_pylist()
            for row in rows:
                group = group_of(row)
                place, tally = places[group], tallies[group]
                standing = tally.standing(place)
                row |= {"adapter": adapter.name, "version": adapter.version}
                row |= {
                    "verdict": str(tally.verdict(place)),
                    "p_value": standing.p,
                    "q_value": standing.q,
                }
                places[group] = place + 1
            writer.write_table(pa.Table.from_pylist(rows, schema=RESULT))
