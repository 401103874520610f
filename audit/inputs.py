"""Candidate files of every kind: JSON Lines, Parquet, Hugging Face dataset folders, and plain text."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from lorecall.adapters.errors import CandidateError
from lorecall.audit.candidates import CandidateSet, collect, finish, load_candidates, to_item
from lorecall.audit.scorer import ScoreItem

TABLES = ("*.parquet", "*.arrow")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
WINDOW = 60
PREFIX = 30


class TextSplit(StrEnum):
    """How plain text becomes snippets.

    SENTENCE gives each sentence for a target, after the one before it. WINDOW takes windows of sixty words, each
    starting thirty words after the last: the first thirty are the prefix, the others the target.
    """

    SENTENCE = "sentence"
    WINDOW = "window"


def load_input(path: Path, *, skip_bad: bool = False, split: TextSplit = TextSplit.SENTENCE) -> CandidateSet:
    """Read a candidate file by its kind: .parquet, .txt, a dataset's folder, and JSON Lines otherwise.

    Args:
        path: The file or folder.
        skip_bad: Leave bad rows out, and count them, where they would be an error.
        split: How plain text becomes snippets.

    Raises:
        CandidateError: It is missing, holds no candidate, or holds a bad row.
    """
    if path.is_dir():
        found = sorted(file for pattern in TABLES for file in path.rglob(pattern))
        if not found:
            raise CandidateError(
                f"the folder {str(path)!r} holds no .parquet and no .arrow file",
                hint="name a dataset saved by Hugging Face datasets, or a file",
                param="candidates",
            )
        return _load_tables(path.name, found, skip_bad=skip_bad)
    if path.suffix == ".parquet" and path.is_file():
        return _load_tables(path.name, [path], skip_bad=skip_bad)
    if path.suffix == ".txt" and path.is_file():
        return _load_text(path, split)
    return load_candidates(path, skip_bad=skip_bad)


def _load_tables(name: str, files: Sequence[Path], *, skip_bad: bool) -> CandidateSet:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    rows = ((number, row) for number, row in enumerate(_rows(files), start=1))
    items, bad = collect(rows, lambda row, number: to_item(_present(row), str(number)))
    return finish(name, digest.hexdigest(), items, bad, skip_bad=skip_bad)


def _present(row: dict[str, Any]) -> dict[str, object]:
    """Leave out the columns that are null in this row: a table has every column in every row."""
    return {name: value for name, value in row.items() if value is not None}


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of Parquet and Arrow files, batch by batch."""
    try:
        pa: Any = import_module("pyarrow")  # optional, and without types
        pq: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise CandidateError("tables need pyarrow", hint="pip install pyarrow", param="candidates") from error
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


def _load_text(path: Path, split: TextSplit) -> CandidateSet:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CandidateError(
            f"{path.name!r} is not UTF-8 at byte {error.start}", param="candidates"
        ) from error
    pairs = _sentences(text) if split is TextSplit.SENTENCE else _windows(text)
    items = [ScoreItem(str(number), prefix, target) for number, (prefix, target) in enumerate(pairs, start=1)]
    return finish(path.name, hashlib.sha256(raw).hexdigest(), items, [], skip_bad=False)


def _sentences(text: str) -> list[tuple[str, str]]:
    sentences = [" ".join(sentence.split()) for sentence in SENTENCE_END.split(text) if sentence.strip()]
    return [(a, f" {b}") for a, b in pairwise(sentences)]


def _windows(text: str) -> list[tuple[str, str]]:
    words = text.split()
    starts = range(0, max(1, len(words) - PREFIX), WINDOW - PREFIX)
    windows = [words[start : start + WINDOW] for start in starts]
    return [(" ".join(w[:PREFIX]), " " + " ".join(w[PREFIX:])) for w in windows if len(w) > PREFIX]
