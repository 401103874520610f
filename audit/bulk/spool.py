"""The snippets of a bulk audit as Parquet blocks; each is a unit of work that can be done again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from lorecall.adapters.core.atomic_file import write_whole
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.scorers.batches import batches
from lorecall.audit.verdicts import Group

BLOCK = 1_024
"""Snippets of a block: about a minute of work on a small engine, and the most that a kill costs."""

_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "block": pa.int64(),
        "place": pa.int64(),
        "set": pa.string(),
        "id": pa.string(),
        "prefix": pa.string(),
        "target": pa.string(),
        "tags": _TEXTS,
        "messages": pa.string(),
        "cluster": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Block:
    """Snippets of one set, in the order of the set.

    Attributes:
        number: Its place among all blocks.
        group: The set.
        rows: How many snippets.
    """

    number: int
    group: Group
    rows: int

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.number:08}.parquet"


def blocks_of(sizes: Mapping[Group, int], size: int = BLOCK) -> list[Block]:
    """Return the blocks that sets of these sizes are cut into, the candidates first."""
    found: list[Block] = []
    for group, count in sorted(sizes.items()):
        for start in range(0, count, size):
            found.append(Block(len(found), group, min(size, count - start)))
    return found


def write_blocks(sets: Mapping[Group, CandidateSet], folder: Path, size: int = BLOCK) -> None:
    """Write the blocks of sets to a folder, each file whole or not at all."""
    number = 0
    for group, one in sorted(sets.items()):
        place = 0
        for items in batches(one.items, size):
            table = pa.Table.from_pylist(
                [_row(number, place + i, group, item) for i, item in enumerate(items)], schema=SCHEMA
            )
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            write_whole(folder / f"{number:08}.parquet", sink.getvalue().to_pybytes(), private=True)
            number, place = number + 1, place + len(items)


def _row(block: int, place: int, group: Group, item: ScoreItem) -> dict[str, object]:
    return {
        "block": block,
        "place": place,
        "set": str(group),
        "id": item.id,
        "prefix": item.prefix,
        "target": item.target,
        "tags": list(item.tags),
        "messages": json.dumps(item.chat) if item.messages else "",
        "cluster": item.cluster,
    }


def read_items(table: pa.Table) -> Iterator[tuple[int, Group, ScoreItem]]:
    """Yield the place, the set and the item of each row of a block."""
    for row in table.to_pylist():
        messages = tuple(Message(**one) for one in json.loads(row["messages"] or "[]"))
        item = ScoreItem(
            row["id"], row["prefix"], row["target"], tuple(row["tags"]), messages, row["cluster"]
        )
        yield row["place"], Group(row["set"]), item
