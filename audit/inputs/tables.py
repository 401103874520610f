"""Read candidates from Parquet and Arrow files, and from Hugging Face dataset folders."""

import hashlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import CandidateSet, Turns
from lorecall.audit.inputs.parsed import make_set, parse_records
from lorecall.audit.inputs.record_items import describe_turns, to_items

TABLES = ("*.parquet", "*.arrow")
CACHED = "cache-"  # prefix of the cache files that Hugging Face datasets leaves beside a dataset's own


def load_folder(path: Path, turns: Turns, *, skip_bad: bool) -> CandidateSet:
    """Read all Parquet and Arrow files below a folder, such as a dataset saved by Hugging Face datasets.

    Raises:
        CandidateError: There is none, one cannot be read, or as for `make_set`.
    """
    tables = (file for pattern in TABLES for file in path.rglob(pattern))
    found = sorted(file for file in tables if not file.name.startswith(CACHED))
    if not found:
        raise CandidateError(
            f"the folder {str(path)!r} holds no .parquet and no .arrow file",
            hint="name a dataset saved by Hugging Face datasets, or a file",
            param="candidates",
        )
    return load_tables(path.name, found, turns, skip_bad=skip_bad)


def load_tables(name: str, files: Sequence[Path], turns: Turns, *, skip_bad: bool) -> CandidateSet:
    """Read the rows of Parquet and Arrow files as one set; its digest is that of their bytes in this order.

    Raises:
        CandidateError: A file cannot be read, or as for `make_set`.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
    rows = ((number, row) for number, row in enumerate(_rows(files), start=1))
    parsed = parse_records(rows, lambda row, number: to_items(_present(row), str(number), turns))
    return make_set(name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated=describe_turns(turns))


def _present(row: dict[str, Any]) -> dict[str, object]:
    """Leave out the columns that are null in this row: a table has every column in every row."""
    return {name: value for name, value in row.items() if value is not None}


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of Parquet and Arrow files, batch by batch."""
    try:
        pa: Any = import_module("pyarrow")  # optional, and without types
        pq: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise CandidateError(
            "tables need pyarrow", hint="pip install lorecall[parquet]", param="candidates"
        ) from error
    for file in files:
        try:
            if file.suffix == ".parquet":
                for batch in pq.ParquetFile(file).iter_batches():
                    yield from batch.to_pylist()
            else:
                with pa.memory_map(str(file)) as source:
                    for batch in pa.ipc.open_stream(source):
                        yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise CandidateError(
                f"{file.name!r} is no table", hint="a Parquet or Arrow stream file", param="candidates"
            ) from error
