"""Read candidates from Parquet and Arrow files, and from Hugging Face dataset folders."""

import hashlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import CONTROLS_SEED, CandidateSet, Turns
from lorecall.audit.inputs.parsed import Bound, make_set, opened, parse_records
from lorecall.audit.inputs.record_items import FIELDS, describe_turns, to_items

PARQUET, ARROW = ".parquet", ".arrow"
CACHED = "cache-"  # prefix of the cache files that Hugging Face datasets leaves beside a dataset's own
ROWS = 256
"""Rows that are read at a time: few, since a small file can hold very long texts."""

Row = dict[str, Any]


def load_folder(path: Path, turns: Turns, *, skip_bad: bool) -> CandidateSet:
    """Read all Parquet and Arrow files below a folder, such as a dataset saved by Hugging Face datasets.

    They are one set; its digest is that of their bytes in the order of their names.

    Raises:
        CandidateError: There is none, one cannot be read, or as for `make_set`.
    """
    tables = (file for suffix in (PARQUET, ARROW) for file in path.rglob(f"*{suffix}"))
    found = sorted(file for file in tables if not file.name.startswith(CACHED))
    if not found:
        raise CandidateError(
            f"the folder {str(path)!r} holds no .parquet and no .arrow file",
            hint="name a dataset saved by Hugging Face datasets, or a file",
            param="candidates",
        )
    digest, made = hashlib.sha256(), set[str]()

    def rows() -> Iterator[Row]:
        for file in found:
            with opened(file) as content:
                yield from _digested_rows(file.name, content, digest, made)

    return _make_set(path.name, rows(), digest, made, turns, skip_bad=skip_bad)


def read_table(
    name: str, content: BufferedIOBase, turns: Turns, *, skip_bad: bool, bound: Bound | None = None
) -> CandidateSet:
    """Read the rows of a Parquet or Arrow file.

    Raises:
        CandidateError: It is no table, or as for `make_set`.
    """
    digest, made = hashlib.sha256(), set[str]()
    rows = _digested_rows(name, content, digest, made)
    return _make_set(name, rows, digest, made, turns, skip_bad=skip_bad, bound=bound)


def _make_set(
    name: str,
    rows: Iterator[Row],
    digest: "hashlib._Hash",
    made: set[str],
    turns: Turns,
    *,
    skip_bad: bool,
    bound: Bound | None = None,
) -> CandidateSet:
    parsed = parse_records(
        enumerate(rows, start=1), lambda row, number: to_items(_present(row), str(number), turns), bound
    )
    how = "; ".join(said for said in (*sorted(made), describe_turns(turns)) if said)
    return make_set(name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated=how)


def _digested_rows(
    name: str, content: BufferedIOBase, digest: "hashlib._Hash", made: set[str]
) -> Iterator[Row]:
    hashlib.file_digest(content, lambda: digest)
    content.seek(0)
    yield from _rows(name, content, made)


class Unreadable:
    """Stands for a value that is neither text nor a number, such as bytes that are no UTF-8."""


def _present(row: Row) -> dict[str, object]:
    """Leave out the columns that are null in this row: a table has every column in every row."""
    return {name: value for name, scalar in row.items() if (value := _value(scalar)) is not None}


def _value(scalar: Any) -> object:
    """Return a value of a column as JSON has it."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, TypeError, NotImplementedError):  # the cause could quote the value
        return Unreadable()


def _rows(name: str, content: BufferedIOBase, made: set[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet or Arrow file, batch by batch; only the columns that a candidate may have.

    How controls were made is added to `made`, where the file says it.
    """
    try:
        pa: Any = import_module("pyarrow")  # optional, and without types
        pq: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise CandidateError(
            "tables need pyarrow", hint="pip install lorecall[parquet]", param="candidates"
        ) from error
    try:
        if Path(name).suffix.lower() == PARQUET:
            table = pq.ParquetFile(content)
            made.update(_made(table.schema_arrow.metadata))
            wanted = _wanted(name, table.schema_arrow.names)
            for batch in table.iter_batches(batch_size=ROWS, columns=wanted, use_threads=False):
                yield from _batch_rows(batch, wanted)
        else:
            with pa.ipc.open_stream(content) as stream:
                wanted = _wanted(name, stream.schema.names)
                for batch in stream:
                    yield from _batch_rows(batch, wanted)
    except (pa.ArrowException, OSError):  # the cause could quote a value
        raise CandidateError(
            f"{name!r} is no table that can be read",
            hint="a Parquet or Arrow stream file",
            param="candidates",
        ) from None


def _made(metadata: dict[bytes, bytes] | None) -> list[str]:
    """Return how the controls of `lorecall audit discover` were made; nothing of other files."""
    seed = (metadata or {}).get(CONTROLS_SEED, b"").decode("ascii", "replace")
    return [f"synthesis by discover, seed {seed}"] if seed.isdecimal() else []


def _wanted(table: str, names: Sequence[str]) -> list[str]:
    """Return the columns of a table that a candidate may have.

    Raises:
        CandidateError: One of them stands twice.
    """
    wanted = [name for name in names if name in FIELDS]
    twice = next((name for name in wanted if wanted.count(name) > 1), None)
    if twice is not None:
        raise CandidateError(
            f"{table!r} has the column {twice!r} twice", hint="keep one of them", param="candidates"
        )
    return wanted


def _batch_rows(batch: Any, wanted: Sequence[str]) -> Iterator[Row]:
    columns = [batch.column(name) for name in wanted]
    for number in range(batch.num_rows):
        yield {name: column[number] for name, column in zip(wanted, columns, strict=True)}
