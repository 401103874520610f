"""The rows of training data of any format, in one pass that can begin at any row."""

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import BadLineError
from lorecall.audit.training_data.counts import Counts
from lorecall.audit.training_data.files import KINDS, Kind, find_files, kind_of
from lorecall.audit.training_data.formats import DataFormat, recognise, unknown_columns, wanted_columns
from lorecall.audit.training_data.readers import Defect, Record, peek, read_records
from lorecall.audit.training_data.turns import Turn, to_turns

__all__ = ["DataFormat", "Row", "TrainingData", "Turn", "open_training_data"]

MAX_CHARACTERS = 1_000_000
MAX_ID = 100
SURROGATE = re.compile("[\ud800-\udfff]")
ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060\ufeff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of training data.

    Attributes:
        number: Its place among all records of the data set, from 1; the same for both sides of a preference pair.
        id: Unique in the data set: the number, then ":" and the row's own id if it has one, then "#rejected" for
            the rejected side of a pair.
        turns: Its parts in their order. A plain text is one turn of the role "text". Prompt and completion
            without a chat template are two, "prompt" and "completion".
    """

    number: int
    id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One file: how it holds its rows, and the columns that are read."""

    path: Path
    kind: Kind
    columns: list[str]


@dataclass(slots=True)
class TrainingData:
    """Training data whose format is known; `open_training_data` makes it.

    Attributes:
        format: The format of all its files.
        sources: The files, in the order in which their rows are numbered.
        split: The split that was taken from a folder with splits, "" if it has none.
        left_out: Files of the folder that are not read.
        counts: What the pass so far found.
        digest: sha256 of the bytes of all files in their order, in hex; "" before the end of a pass.
    """

    format: DataFormat
    sources: tuple[Source, ...]
    split: str = ""
    left_out: tuple[Path, ...] = ()
    counts: Counts = field(default_factory=Counts)
    digest: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order in which their rows are numbered."""
        return tuple(source.path for source in self.sources)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Yield the rows whose number is over `start`, in their order; counts and digest begin anew.

        Raises:
            CandidateError: A file is damaged.
        """
        self.counts, self.digest = Counts(), ""
        digest, number, ids = hashlib.sha256(), 0, array("q")
        for source in self.sources:
            records = read_records(source.path, source.kind, source.columns, digest, self.counts)
            for record in records:
                number += 1
                if number > start:
                    yield from self._rows(record, number, ids)
        self.counts.duplicate_ids = len(ids) - len(np.unique(np.frombuffer(ids, dtype=np.int64)))
        self.digest = digest.hexdigest()

    def _rows(self, record: Record, number: int, ids: "array[int]") -> Iterator[Row]:
        self.counts.rows += 1
        if isinstance(record, Defect):
            if record.reason:
                self.counts.refuse(number, record.reason)
            else:
                self.counts.over_long += 1
            return
        try:
            found = to_turns(record, self.format, self.counts)
        except BadLineError as error:
            self.counts.refuse(number, str(error))
            return
        own = self._own_id(record, ids)
        for end, turns in found.items():
            if self._usable(turns):
                self.counts.used += 1
                yield Row(number, f"{number}{own}{end}", turns)

    def _own_id(self, record: dict[str, Any], ids: "array[int]") -> str:
        value = record.get("id")
        if value is None:
            return ""
        ids.append(hash(value) if isinstance(value, str | int) else 0)
        if isinstance(value, int) and not isinstance(value, bool):
            return f":{value}"
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_ID:
            return f":{value}"
        self.counts.bad_ids += 1
        return ""

    def _usable(self, turns: tuple[Turn, ...]) -> bool:
        """Count what is odd in a row, and return whether it can be used."""
        counts, texts = self.counts, [turn.text for turn in turns]
        if sum(map(len, texts)) > MAX_CHARACTERS:
            counts.over_long += 1
            return False
        odd = [text for text in texts if not text.isascii()]
        if any(SURROGATE.search(text) for text in odd):
            counts.lone_surrogates += 1
            return False
        counts.crlf += any("\r\n" in text for text in texts)
        counts.zero_width += any(ZERO_WIDTH.search(text) for text in odd)
        counts.not_nfc += any(not unicodedata.is_normalized("NFC", text) for text in odd)
        counts.openings += turns[:1] != () and turns[0].role == "assistant"
        counts.empty_turns += sum(not text.strip() for text in texts)
        if not any(turn.trained and turn.text.strip() for turn in turns):
            counts.empty += 1
            return False
        return True


def open_training_data(
    path_or_glob: str, data_format: DataFormat | None = None, *, split: str | None = None
) -> TrainingData:
    """Find the files of a training set and recognise their format.

    Args:
        path_or_glob: A file, a folder, or a pattern with `*`, `?` or `**`; `.gz` and `.zst` are decompressed.
        data_format: The format, if it is to be stated.
        split: The split of a folder to read; by default "train" where there is one, and all files elsewhere.

    Raises:
        CandidateError: There is no file, one cannot be read, its format is not known, or files differ in format.
    """
    found = find_files(path_or_glob, split)
    opened = open_training_files(found.files, data_format)
    opened.split, opened.left_out = found.split, found.left_out
    return opened


def open_training_files(files: Sequence[Path], data_format: DataFormat | None = None) -> TrainingData:
    """Recognise the format of files whose rows are one training set, in that order.

    Raises:
        CandidateError: One cannot be read, its format is not known, or files differ in format.
    """
    formats: dict[DataFormat, Path] = {}
    sources = []
    for path in files:
        kind = _kind(path, data_format)
        names = peek(path, kind)
        its = data_format or recognise(names)
        if its is None:
            raise unknown_columns(names, path.name, "of no known format")
        sources.append(Source(path, kind, wanted_columns(its, names, path.name)))
        formats.setdefault(its, path)
    if len(formats) > 1:
        listed = ", ".join(f"{path.name!r} is {its}" for its, path in formats.items())
        raise CandidateError(
            f"the files differ in format: {listed}", hint="read each format by itself", param="data"
        )
    (its,) = formats
    return TrainingData(its, tuple(sources))


def _kind(path: Path, data_format: DataFormat | None) -> Kind:
    if path.stat().st_size == 0:
        raise CandidateError(f"{path.name!r} is empty", param="data")
    kind = kind_of(path) or (Kind.LINES if data_format is DataFormat.TEXT else None)
    if kind is None:
        raise CandidateError(
            f"the name of {path.name!r} does not say what it is",
            hint=f"let it end in {', '.join(KINDS)}, also with .gz or .zst; or --data-format text",
            param="data",
        )
    return kind
