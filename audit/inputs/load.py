"""Candidate files of every kind: JSON Lines, Parquet, Hugging Face dataset folders, and plain text."""

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.inputs.candidates import (
    BadLineError,
    CandidateSet,
    Turns,
    collect,
    finish,
    load_candidates,
    said_of,
    to_items,
)
from lorecall.audit.scorer import ScoreItem

TABLES = ("*.parquet", "*.arrow")
CACHED = "cache-"  # what Hugging Face datasets leaves beside a dataset's own files
BLOCK = 1 << 20
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
WHITE = re.compile(r"\s+")
BLANK_LINE = re.compile(r"\n\s*\n")
WINDOW = 60
PREFIX = 30
TOKENS = 50
"""Of a prefix and of a target: what Carlini et al. 2023 (arXiv:2202.07646) prompt with and ask for."""


class TextSplit(StrEnum):
    """How plain text becomes snippets.

    SENTENCE gives each sentence for a target, after the one before it. WINDOW takes windows of sixty words, each
    starting thirty words after the last: the first thirty are the prefix, the others the target. TOKENS cuts each
    paragraph into stretches of fifty tokens: each but the first is a target, after the one before it.
    """

    SENTENCE = "sentence"
    WINDOW = "window"
    TOKENS = "tokens"


def load_input(
    path: Path,
    *,
    skip_bad: bool = False,
    split: TextSplit = TextSplit.SENTENCE,
    turns: Turns = Turns.ONLY,
    tokenizer: Path | None = None,
) -> CandidateSet:
    """Read a candidate file by its kind: .parquet, .txt, a dataset's folder, and JSON Lines otherwise.

    Memory is bounded whatever the file's length: many items stay on disk.

    Args:
        path: The file or folder.
        skip_bad: Leave bad rows out, and count them, where they would be an error.
        split: How plain text becomes snippets.
        turns: Which turns of a chat are asked for.
        tokenizer: Folder with the tokenizer.json that TOKENS counts by.

    Raises:
        CandidateError: It is missing, holds no candidate, or holds a bad row.
        UsageError: The tokenizer is missing or none.
    """
    if path.is_dir():
        tables = (file for pattern in TABLES for file in path.rglob(pattern))
        found = sorted(file for file in tables if not file.name.startswith(CACHED))
        if not found:
            raise CandidateError(
                f"the folder {str(path)!r} holds no .parquet and no .arrow file",
                hint="name a dataset saved by Hugging Face datasets, or a file",
                param="candidates",
            )
        return _load_tables(path.name, found, turns, skip_bad=skip_bad)
    if path.suffix == ".parquet" and path.is_file():
        return _load_tables(path.name, [path], turns, skip_bad=skip_bad)
    if path.suffix == ".txt" and path.is_file():
        if split is TextSplit.TOKENS:
            return _load_paragraphs(path, tokenizer, skip_bad=skip_bad)
        return _load_text(path, split)
    return load_candidates(path, skip_bad=skip_bad, turns=turns)


def _load_tables(name: str, files: Sequence[Path], turns: Turns, *, skip_bad: bool) -> CandidateSet:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
    rows = ((number, row) for number, row in enumerate(_rows(files), start=1))
    parsed = collect(rows, lambda row, number: to_items(_present(row), str(number), turns))
    return finish(name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated=said_of(turns))


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


def _load_text(path: Path, split: TextSplit) -> CandidateSet:
    digest = hashlib.sha256()
    text = _text_blocks(path, digest)
    pairs = _sentences(text) if split is TextSplit.SENTENCE else _windows(text)
    parsed = collect(
        enumerate(pairs, start=1), lambda pair, number: [ScoreItem(str(number), pair[0], pair[1])]
    )
    return finish(path.name, digest.hexdigest(), parsed, skip_bad=False)


def _load_paragraphs(path: Path, tokenizer: Path | None, *, skip_bad: bool) -> CandidateSet:
    digest, cut = hashlib.sha256(), _token_stretches(tokenizer)
    paragraphs = (piece.strip() for piece in _pieces(_text_blocks(path, digest), BLANK_LINE))

    def parse(paragraph: str, number: int) -> list[ScoreItem]:
        stretches = cut(paragraph)
        if len(stretches) == 1:
            raise BadLineError(f"a paragraph of no more than {TOKENS} tokens has no target")
        return [ScoreItem(f"{number}#{n}", *pair) for n, pair in enumerate(pairwise(stretches), start=1)]

    parsed = collect(enumerate(filter(None, paragraphs), start=1), parse)
    return finish(path.name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated="lines are paragraphs")


def _token_stretches(folder: Path | None) -> Callable[[str], list[str]]:
    """Return what cuts a text before every fiftieth token."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    if folder is None or not (folder / "tokenizer.json").is_file():
        raise UsageError(
            "a split by tokens needs the folder of a tokenizer.json"
            + (f", not {str(folder)!r}" * bool(folder)),
            hint="--tokenizer DIR, such as the prepared base's folder",
            param="tokenizer",
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def cut(text: str) -> list[str]:
        starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets[::TOKENS]]
        return [text[low:high] for low, high in pairwise([0, *starts[1:], len(text)])]

    return cut


def _text_blocks(path: Path, digest: "hashlib._Hash") -> Iterator[str]:
    """Yield a text file's content, block by block, digesting its bytes."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while True:
            start, block = file.tell(), file.read(BLOCK)
            digest.update(block)
            try:
                yield decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = max(0, start - len(error.object) + len(block) + error.start)
                raise CandidateError(
                    f"{path.name!r} is not UTF-8 at byte {at}", param="candidates"
                ) from error
            if not block:
                return


def _pieces(text: Iterable[str], end: re.Pattern[str]) -> Iterator[str]:
    """Split a text that comes in blocks at each match, holding no more than a block and a piece."""
    rest = ""
    for block in text:
        *whole, rest = end.split(rest + block)
        yield from whole
    yield rest


def _sentences(text: Iterable[str]) -> Iterator[tuple[str, str]]:
    sentences = (" ".join(piece.split()) for piece in _pieces(text, SENTENCE_END) if piece.strip())
    return ((a, f" {b}") for a, b in pairwise(sentences))


def _windows(text: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the windows; each shares its first words with the end of the one before."""
    held: list[str] = []
    for word in (piece for piece in _pieces(text, WHITE) if piece):
        held.append(word)
        if len(held) == WINDOW:
            yield " ".join(held[:PREFIX]), " " + " ".join(held[PREFIX:])
            del held[: WINDOW - PREFIX]
    if len(held) > PREFIX:
        yield " ".join(held[:PREFIX]), " " + " ".join(held[PREFIX:])
