"""The files of a training set: a path, a glob, or a folder with its splits; each opened as plain bytes."""

import io
import re
from dataclasses import dataclass
from enum import StrEnum
from glob import glob, has_magic
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lorecall.adapters.core.errors import CandidateError

if TYPE_CHECKING:
    import hashlib

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
MAGIC = {b"PAR1": "parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
LARGEST_RATIO = 1000
RATIO_FROM_BYTES = 1 << 28
"""From so many bytes on, more than LARGEST_RATIO times the compressed bytes are refused: a bomb, not text."""
SPLIT_NAME = re.compile(r"(train|validation|valid|val|dev|test|eval)(?:[-_.].*)?", re.IGNORECASE)
ABOUT = frozenset(("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json"))
"""Files beside a Hugging Face dataset's rows that hold none."""
CACHED = "cache-"


class Kind(StrEnum):
    """How a file holds its rows."""

    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    ARROW = "arrow"
    LINES = "lines"


KINDS = {
    ".jsonl": Kind.JSON,
    ".ndjson": Kind.JSON,
    ".json": Kind.JSON,
    ".csv": Kind.CSV,
    ".tsv": Kind.TSV,
    ".parquet": Kind.PARQUET,
    ".arrow": Kind.ARROW,
    ".txt": Kind.LINES,
}


@dataclass(frozen=True, slots=True)
class Found:
    """The files that a path, a glob or a folder stands for.

    Attributes:
        files: In the order in which their rows are numbered.
        split: The split that was taken from a folder with splits, "" if it has none.
        left_out: Files of the folder that are not read: those of other splits, and of unknown kinds.
    """

    files: tuple[Path, ...]
    split: str = ""
    left_out: tuple[Path, ...] = ()


def find_files(path_or_glob: str, split: str | None) -> Found:
    """Return the files of a training set.

    Args:
        path_or_glob: A file, a folder, or a pattern with `*`, `?` or `**`.
        split: The split of a folder to take; None for "train" where there is one, and for all files elsewhere.

    Raises:
        CandidateError: There is none, or not that split.
    """
    path = Path(path_or_glob)
    if path.is_dir():
        return _in_folder(path, split)
    if split is not None:
        raise CandidateError(f"{path_or_glob!r} is no folder with splits", param="data_split")
    if path.is_file():
        return Found((path,))
    names = glob(path_or_glob, recursive=True) if has_magic(path_or_glob) else []  # noqa: PTH207  a pattern may be absolute
    files = tuple(sorted(Path(name) for name in names if Path(name).is_file()))
    if not files:
        raise CandidateError(
            f"no training data at {path_or_glob!r}", hint="name a file, a folder, or a pattern", param="data"
        )
    return Found(files)


def _in_folder(folder: Path, split: str | None) -> Found:
    below = sorted(one for one in folder.rglob("*") if one.is_file())
    rows = [
        one for one in below if kind_of(one) and one.name not in ABOUT and not one.name.startswith(CACHED)
    ]
    rows = [one for one in rows if not any(part.startswith(".") for part in one.relative_to(folder).parts)]
    if not rows:
        raise CandidateError(
            f"the folder {str(folder)!r} holds no training data",
            hint=f"files that end in {', '.join(KINDS)}, also with .gz or .zst",
            param="data",
        )
    splits = {one: _split_of(one.relative_to(folder)) for one in rows}
    known = sorted(set(splits.values()) - {""})
    if split is not None and split not in known:
        raise CandidateError(
            f"{str(folder)!r} has no split {split!r}",
            hint=f"it has {', '.join(known) or 'none'}",
            param="data_split",
        )
    taken = split or ("train" if "train" in known else "")
    files = tuple(one for one in rows if splits[one] == taken) if taken else tuple(rows)
    others = (one for one in below if one not in files and one.name not in ABOUT)
    return Found(files, taken, tuple(others))


def _split_of(path: Path) -> str:
    """Return the split that a folder's or the file's own name says, "" if none does."""
    found = (SPLIT_NAME.fullmatch(part) for part in path.parts)
    return next((match[1].lower() for match in found if match), "")


def kind_of(path: Path) -> Kind | None:
    """Return the kind that a file's name says, `.gz` and `.zst` aside; None if it says none."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return KINDS.get(inner.suffix.lower())


class _Digested(io.RawIOBase):
    """A file that digests what is read from it."""

    def __init__(self, raw: BinaryIO, digest: "hashlib._Hash") -> None:
        self._raw = raw
        self._digest = digest
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        self.count += len(data)
        return len(data)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """The plain bytes of a compressed file, refused where they are a bomb."""

    def __init__(self, packed: _Digested, codec: str, name: str) -> None:
        pa = pyarrow()
        self._packed = packed
        self._name = name
        self._plain = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), codec)
        self._damage = (pa.ArrowInvalid, OSError)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._plain.read(len(buffer))
        except self._damage as error:
            raise CandidateError(
                f"{self._name!r} cannot be decompressed: it is damaged or cut off",
                hint="copy it again",
                param="data",
            ) from error
        buffer[: len(data)] = data
        self._count += len(data)
        if self._count > max(RATIO_FROM_BYTES, LARGEST_RATIO * self._packed.count):
            raise CandidateError(
                f"{self._name!r} holds more than {LARGEST_RATIO} times its compressed size",
                hint="decompress it yourself if it is what you mean",
                param="data",
            )
        return len(data)


def open_plain(path: Path, digest: "hashlib._Hash") -> io.BufferedReader:
    """Open a file for reading its plain bytes, decompressed where its first bytes are gzip's or zstd's.

    Args:
        path: The file.
        digest: Takes the bytes of the file itself.

    Raises:
        CandidateError: It is compressed, and pyarrow is not installed.
    """
    with path.open("rb") as start:
        head = start.read(4)
    codec = next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")
    raw = _Digested(path.open("rb", buffering=0), digest)
    if codec in COMPRESSED.values():
        return io.BufferedReader(_Decompressed(raw, codec, path.name), 1 << 18)
    return io.BufferedReader(raw, 1 << 18)


def pyarrow(module: str = "pyarrow") -> Any:
    """Return pyarrow or one of its modules.

    Raises:
        CandidateError: It is not installed.
    """
    try:
        return import_module(module)  # optional, and without types
    except ImportError as error:
        raise CandidateError(
            "tables and compressed files need pyarrow", hint="pip install lorecall[data]", param="data"
        ) from error
