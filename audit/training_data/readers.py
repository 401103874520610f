"""Records of one file, one after another: JSON, CSV, Parquet, Arrow, lines of text."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import BadLineError
from lorecall.audit.inputs.json_lines import no_duplicates, parse_line
from lorecall.audit.training_data.counts import Counts
from lorecall.audit.training_data.files import Kind, open_plain, pyarrow

LONGEST_LINE = 1 << 24
BATCH = 512
DEEPEST = 16
PEEKED = 100
BOM = b"\xef\xbb\xbf"
BETWEEN = " \t\r\n,"
ROW = json.JSONDecoder(object_pairs_hook=no_duplicates)


@dataclass(frozen=True, slots=True)
class Defect:
    """A record that cannot be used.

    Attributes:
        reason: Why, without its text; "" where it is over-long.
    """

    reason: str = ""


Record = dict[str, Any] | Defect


def peek(path: Path, kind: Kind) -> list[str]:
    """Return the names of a file's columns: those of its table, or of its first hundred records.

    Raises:
        CandidateError: The file cannot be read, or is empty.
    """
    if kind in (Kind.PARQUET, Kind.ARROW, Kind.CSV, Kind.TSV):
        return _table_columns(path, kind)
    if kind is Kind.LINES:
        return ["text"]
    first = list(islice(read_records(path, kind, None, hashlib.sha256(), Counts()), PEEKED))
    names = dict.fromkeys(name for one in first if isinstance(one, dict) for name in one)
    if not names:
        reason = next((one.reason for one in first if isinstance(one, Defect)), "it holds no row")
        raise CandidateError(
            f"{path.name!r} is no training data: {reason}", hint="give JSON Lines or a table", param="data"
        )
    return list(names)


def read_records(
    path: Path, kind: Kind, columns: Sequence[str] | None, digest: "hashlib._Hash", counts: Counts
) -> Iterator[Record]:
    """Yield the records of a file in bounded memory; at the end all its bytes are in the digest.

    Args:
        path: The file.
        kind: How it holds its rows.
        columns: The columns to read of a table; None for all.
        digest: Takes the bytes of the file.
        counts: A byte order mark is counted here.

    Raises:
        CandidateError: The file is damaged, binary, or no such file.
    """
    if kind in (Kind.PARQUET, Kind.ARROW):
        with path.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
        yield from _tables(path, kind, columns)
        return
    with open_plain(path, digest) as stream:
        head = stream.peek(4)[:4]
        if head.startswith(BOM):
            counts.byte_order_marks += 1
            stream.read(len(BOM))
        if b"\0" in head:
            raise _binary(path)
        if kind is Kind.JSON:
            yield from _json(stream, path)
        elif kind is Kind.LINES:
            yield from _text_lines(stream, path)
        else:
            yield from _csv(stream, path, kind, columns)
        while stream.read(1 << 20):
            pass  # the digest is of all bytes


def _binary(path: Path) -> CandidateError:
    return CandidateError(f"{path.name!r} is a binary file", hint="give text or a table", param="data")


def _lines(stream: io.BufferedReader) -> Iterator[bytes | None]:
    """Yield the lines of a stream; None for one that is longer than LONGEST_LINE."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


def _text_lines(stream: io.BufferedReader, path: Path) -> Iterator[Record]:
    for line in _lines(stream):
        if line is None:
            yield Defect()
        elif b"\0" in line:
            raise _binary(path)
        elif stripped := line.rstrip(b"\r\n"):
            try:
                yield {"text": stripped.decode()}
            except UnicodeDecodeError as error:
                yield Defect(f"not UTF-8 at byte {error.start}")


def _json(stream: io.BufferedReader, path: Path) -> Iterator[Record]:
    start = stream.peek(1)[:1024].lstrip()[:1]
    if start == b"[":
        yield from _json_array(stream, path)
        return
    for number, line in enumerate(_lines(stream), start=2):  # a mark of byte order is already read
        if line is None:
            yield Defect()
        elif line.strip():
            if b"\0" in line:
                raise _binary(path)
            try:
                yield parse_line(line, number)
            except BadLineError as error:
                yield Defect(str(error))


def _json_array(stream: io.BufferedReader, path: Path) -> Iterator[Record]:
    """Yield the objects of one JSON array; each is parsed by itself, so the array is never held as a whole."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    buffer, place = _read_text(text, path).lstrip(), 1
    while True:
        while place < len(buffer) and buffer[place] in BETWEEN:
            place += 1
        if buffer[place : place + 1] == "]":
            text.detach()
            return
        try:
            value, end = ROW.raw_decode(buffer, place)
        except BadLineError as error:
            raise _broken(path, str(error)) from None
        except RecursionError:
            raise _broken(path, "a row nests too deeply") from None
        except ValueError:
            more = _read_text(text, path) if len(buffer) - place < LONGEST_LINE else ""
            if not more:
                raise _broken(
                    path, "its list of rows is cut off, is no JSON, or a row is over 16 MiB"
                ) from None
            buffer, place = buffer[place:] + more, 0
            continue
        place = end
        yield value if isinstance(value, dict) else Defect(f"not a JSON object but {type(value).__name__}")


def _read_text(text: io.TextIOWrapper, path: Path) -> str:
    try:
        return text.read(1 << 18)
    except UnicodeDecodeError as error:
        raise _broken(path, "it is not UTF-8") from error


def _broken(path: Path, reason: str) -> CandidateError:
    return CandidateError(f"{path.name!r} cannot be read: {reason}", hint="write it again", param="data")


def _csv_reader(stream: Any, path: Path, kind: Kind, columns: dict[str, Any] | None) -> Any:
    pa, csv = pyarrow(), pyarrow("pyarrow.csv")
    try:
        return csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=csv.ReadOptions(use_threads=False, block_size=LONGEST_LINE),
            parse_options=csv.ParseOptions(
                delimiter="\t" if kind is Kind.TSV else ",", newlines_in_values=True
            ),
            convert_options=csv.ConvertOptions(column_types=columns, include_columns=list(columns or ())),
        )
    except pa.ArrowInvalid:
        raise _no_csv(path) from None  # the cause quotes a row


def _no_csv(path: Path) -> CandidateError:
    return _broken(
        path,
        "a row has not as many cells as the header, is over 16 MiB or not UTF-8, or the file is empty",
    )


def _csv(
    stream: io.BufferedReader, path: Path, kind: Kind, columns: Sequence[str] | None
) -> Iterator[Record]:
    """Yield the rows of a table in text; every cell stays text, so "007" is not a number."""
    pa = pyarrow()
    reader = _csv_reader(stream, path, kind, {name: pa.string() for name in columns or ()})
    try:
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH):
                yield from batch.slice(start, BATCH).to_pylist()
    except pa.ArrowInvalid:
        raise _no_csv(path) from None


def _table_columns(path: Path, kind: Kind) -> list[str]:
    if kind in (Kind.CSV, Kind.TSV):
        with open_plain(path, hashlib.sha256()) as stream:
            return [str(name) for name in _csv_reader(stream, path, kind, None).schema.names]
    pa = pyarrow()
    try:
        if kind is Kind.PARQUET:
            return [str(name) for name in pyarrow("pyarrow.parquet").read_schema(path).names]
        with pa.memory_map(str(path)) as source:
            return [str(name) for name in _arrow(source).schema.names]
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_table(path, kind) from error


def _no_table(path: Path, kind: Kind) -> CandidateError:
    return CandidateError(f"{path.name!r} is no {kind} file, or damaged", hint="write it again", param="data")


def _arrow(source: Any) -> Any:
    """Open an Arrow stream, as Hugging Face datasets writes it, or an Arrow file (Feather)."""
    pa = pyarrow()
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source)


def _file_batches(table: Any) -> Iterator[Any]:
    return (table.get_batch(place) for place in range(table.num_record_batches))


def _tables(path: Path, kind: Kind, columns: Sequence[str] | None) -> Iterator[Record]:
    pa = pyarrow()
    try:
        with pa.memory_map(str(path)) as source:
            if kind is Kind.PARQUET:
                table = pyarrow("pyarrow.parquet").ParquetFile(source)
                _check_depth(table.schema_arrow, columns, path)
                batches = table.iter_batches(batch_size=BATCH, columns=columns, use_threads=False)
            else:
                table = _arrow(source)
                _check_depth(table.schema, columns, path)
                batches = table if hasattr(table, "read_next_batch") else _file_batches(table)
            for batch in batches:
                chosen = batch if columns is None else batch.select(columns)
                for start in range(0, chosen.num_rows, BATCH):
                    yield from chosen.slice(start, BATCH).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_table(path, kind) from error


def _check_depth(schema: Any, columns: Sequence[str] | None, path: Path) -> None:
    """Refuse columns that nest so deeply that their rows could not be built."""
    for field in schema:
        waiting = [(field.type, 1)] if columns is None or field.name in columns else []
        while waiting:
            part, depth = waiting.pop()
            if depth > DEEPEST:
                raise CandidateError(
                    f"{path.name!r}: the column {field.name[:40]!r} nests more than {DEEPEST} levels deep",
                    param="data",
                )
            waiting += [(part.field(i).type, depth + 1) for i in range(part.num_fields)]
