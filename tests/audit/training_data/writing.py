"""Write training files of every kind."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]


def json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: Rows, delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def write(path: Path, rows: Rows) -> Path:
    """Write rows as the file's name says."""
    inner, _, last = path.name.rpartition(".")
    kind = inner.rpartition(".")[2] if last in ("gz", "zst") else last
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind == "arrow":
        held = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, held.schema) as stream:
            stream.write_table(held)
        return path
    data = {
        "json": lambda: json.dumps(rows, indent=1).encode(),
        "csv": lambda: table(rows, ","),
        "tsv": lambda: table(rows, "\t"),
        "txt": lambda: "".join(f"{row['text']}\n" for row in rows).encode(),
    }.get(kind, lambda: json_lines(rows))()
    path.write_bytes({"gz": gzip.compress, "zst": zstd}.get(last, bytes)(data))
    return path
