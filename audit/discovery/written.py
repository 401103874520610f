"""The file of ranked candidates, and what a Parquet file tells of itself."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lorecall.adapters.core.atomic_file import moved_when_whole
from lorecall.audit.discovery.finder import load
from lorecall.audit.discovery.parts import Parts, candidate_columns
from lorecall.audit.discovery.rank import Ranking

CHUNK = 5_000


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """Return what a Parquet file tells of itself; nothing where there is none."""
    try:
        return load("pyarrow.parquet").read_schema(path).metadata or {}
    except (OSError, ValueError):  # pyarrow's error of a damaged file is a ValueError
        return {}


def write_candidates(
    out: Path, parts: Parts, ranking: Ranking, written: int, told: dict[bytes, bytes]
) -> None:
    """Write the first candidates in the order of their rank, and what is told of them; the file appears whole."""
    pa, pq = load("pyarrow"), load("pyarrow.parquet")
    schema = _schema(pa).with_metadata(told)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    with moved_when_whole(part, out):
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for start in range(0, written, CHUNK):
                rows = _ranked(parts, ranking, range(start, min(start + CHUNK, written)))
                writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
        part.chmod(0o600)


def _schema(pa: Any) -> Any:
    """Return the Arrow schema of a file of candidates."""
    own = candidate_columns()
    ranks = [(name, pa.int64()) for name in ("rank", "cluster", "duplicates")]
    ranks += [(name, pa.float64()) for name in ("score", "surprise", "rarity")]
    return pa.schema([*own, *ranks])


def _ranked(parts: Parts, ranking: Ranking, numbers: range) -> Iterator[dict[str, Any]]:
    for number, row in zip(numbers, parts.take(ranking.places[numbers.start : numbers.stop]), strict=True):
        surprise = float(ranking.surprise[number])
        yield row | {
            "rank": number + 1,
            "cluster": int(ranking.clusters[number]),
            "score": float(ranking.score[number]),
            "surprise": surprise if np.isfinite(surprise) else None,
            "duplicates": int(ranking.duplicates[number]),
            "rarity": float(ranking.rarity[number]),
        }
