"""Unpack untrusted zip, tar and tar.gz archives: only an adapter's own files are written to disk."""

import gzip
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar, cast

from lorecall.adapters.core.refusals import ArchiveRefusedError, Reason, safe_repr
from lorecall.adapters.peft_format.companions import COMPANIONS, MAX_COMPANION_BYTES
from lorecall.adapters.peft_format.files import ADAPTER_FILES, WEIGHTS_FILE, instead_of_adapter

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_MEMBERS = 1000
_CHUNK_BYTES = 1 << 16
_MAX_TAR_HEADER_BYTES = 1 << 13
_MAX_TAR_HEADERS_BYTES = 1 << 16
_MAX_TAR_READ_BYTES = MAX_MEMBERS * 3 * tarfile.BLOCKSIZE
_MAX_ZIP_DIRECTORY_BYTES = 1 << 20
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_MAX_COMPANIONS = 4 * len(COMPANIONS)  # of the adapter and a few checkpoints
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_OTHER_KINDS = {
    b"\xfd7zXZ\0": "an archive of xz (.tar.xz)",
    b"BZh": "an archive of bzip2 (.tar.bz2)",
    b"\x28\xb5\x2f\xfd": "an archive of zstd (.tar.zst)",
    b"7z\xbc\xaf\x27\x1c": "an archive of 7-Zip",
    b"Rar!": "an archive of RAR",
    b"GGUF": "a GGUF file",
}

T = TypeVar("T")
Content = Callable[[], Iterable[bytes]]


def unpack(archive: BinaryIO, target: Path, *, max_bytes: int) -> tuple[str, ...]:
    """Unpack the one adapter of an archive into a directory.

    The adapter may lie at the top or in one directory, with a trainer's checkpoints beside it. Members are never
    written under their own paths: only the files of an adapter are copied, by their fixed names. One unsafe
    member refuses the whole archive.

    Args:
        archive: A seekable file: zip, tar or tar.gz, recognised by its content.
        target: An existing empty directory.
        max_bytes: Limit on the bytes unpacked, counted while unpacking; sizes in the archive are not trusted.

    Returns:
        The names of the files in the adapter's folder, sorted, those that were not unpacked included.

    Raises:
        ArchiveRefusedError: It is no such archive, is damaged, encrypted or too large, holds no adapter or
            several, or has a link, a device, or a path out of itself.
    """
    try:
        archive.seek(0)
        magic = archive.read(6)
        archive.seek(0)
        if magic.startswith(b"PK"):
            return _unzip(archive, target, max_bytes)
        if magic.startswith(b"\x1f\x8b"):
            return _gunzip(archive, target, max_bytes)
        for start, kind in _OTHER_KINDS.items():
            if magic.startswith(start):
                raise ArchiveRefusedError(
                    Reason.BAD_ARCHIVE, f"it is {kind}", hint="pack it again: tar czf adapter.tar.gz -C DIR ."
                )
        return _untar(archive, target, max_bytes)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise _bad(f"the archive is damaged or no archive: {safe_repr(str(error))}") from error
    except (NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
        raise _bad(f"the archive cannot be read: {safe_repr(str(error))}") from error


class _BoundedReader:
    """A file that limits the size of one read, the sum of the reads over a tar block (512 bytes), and of all.

    Both libraries read a header of any stated size in one piece, and tarfile searches it with regular expressions
    that take quadratic time. It reads the map of a sparse file block by block, for as long as the map goes on.
    """

    def __init__(self, inner: BinaryIO, largest: int, allowance: int, total: int) -> None:
        self._inner = inner
        self._largest = largest
        self._allowance = allowance
        self._total = total
        self.tell, self.seek, self.seekable = inner.tell, inner.seek, inner.seekable

    def read(self, size: int = -1) -> bytes:
        content = self._inner.read(size if 0 <= size <= self._largest else self._largest + 1)
        if len(content) > tarfile.BLOCKSIZE:
            self._allowance -= len(content)
        self._total -= len(content)
        if len(content) > self._largest or self._allowance < 0 or self._total < 0:
            raise _bad("the archive has oversized headers")
        return content


def _unzip(archive: BinaryIO, target: Path, max_bytes: int) -> tuple[str, ...]:
    directory = _BoundedReader(archive, _MAX_ZIP_DIRECTORY_BYTES, allowance=1 << 62, total=1 << 62)
    with zipfile.ZipFile(cast("BinaryIO", directory)) as opened:
        return _copy_out(_zip_members(opened), target, max_bytes)


def _gunzip(archive: BinaryIO, target: Path, max_bytes: int) -> tuple[str, ...]:
    plain = target / ".unpacking.tar"
    try:
        with gzip.open(archive) as compressed, plain.open("w+b") as spool:
            _write(iter(lambda: compressed.read(_CHUNK_BYTES), b""), spool, max_bytes)
            return _untar(spool, target, max_bytes)
    finally:
        plain.unlink(missing_ok=True)


def _untar(archive: BinaryIO, target: Path, max_bytes: int) -> tuple[str, ...]:
    archive.seek(0)
    headers = _BoundedReader(archive, _MAX_TAR_HEADER_BYTES, _MAX_TAR_HEADERS_BYTES, _MAX_TAR_READ_BYTES)
    with tarfile.open(fileobj=cast("BinaryIO", headers), mode="r:") as opened:
        return _copy_out(_tar_members(opened, archive), target, max_bytes)


def _tar_members(headers: tarfile.TarFile, archive: BinaryIO) -> Iterator[tuple[str, Content]]:
    for member in _counted(headers):
        _check_path(member.name)
        if member.size < 0:
            raise _bad(f"{safe_repr(member.name)} in the archive has a size of {member.size} bytes")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            link = member.issym() or member.islnk()
            raise ArchiveRefusedError(
                Reason.SYMLINK if link else Reason.NOT_A_REGULAR_FILE,
                f"{safe_repr(member.name)} in the archive is a {'link' if link else 'special file'}",
                hint="pack plain files (tar --dereference)",
            )
        yield member.name, partial(_piece, archive, member.offset_data, member.size)


def _piece(archive: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    archive.seek(start)
    while size > 0:
        chunk = archive.read(min(size, _CHUNK_BYTES))
        if not chunk:
            raise tarfile.ReadError("the archive ends early")
        size -= len(chunk)
        yield chunk


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, Content]]:
    for member in _counted(archive.infolist()):
        _check_path(member.orig_filename)
        if member.is_dir():
            continue
        kind = member.external_attr >> 28  # the type bits of a Unix mode
        if kind not in (0, 0o10):
            raise ArchiveRefusedError(
                Reason.SYMLINK if kind == 0o12 else Reason.NOT_A_REGULAR_FILE,
                f"{safe_repr(member.filename)} in the archive is not a plain file",
                hint="pack plain files",
            )
        if member.flag_bits & _ENCRYPTED:
            raise _bad(f"{safe_repr(member.filename)} in the archive is encrypted")
        if member.compress_type not in _ZIP_METHODS:
            raise _bad(f"{safe_repr(member.filename)} is compressed by method {member.compress_type}")
        yield member.filename, partial(_inflated, archive, member)


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as content:
        while chunk := content.read(_CHUNK_BYTES):
            yield chunk


def _counted(members: Iterable[T]) -> Iterator[T]:
    for number, member in enumerate(members, 1):
        if number > MAX_MEMBERS:
            raise _bad(f"the archive has more than {MAX_MEMBERS} members")
        yield member


def _copy_out(members: Iterator[tuple[str, Content]], target: Path, max_bytes: int) -> tuple[str, ...]:
    """Copy the adapter's files in one pass; every member is checked, also after they are found.

    A trainer leaves checkpoints beside the adapter: those are not it, unless one of them is all that there is.
    """
    seen: set[PurePosixPath] = set()
    homes: dict[PurePosixPath, Path] = {}
    beside: dict[PurePosixPath, bytes] = {}
    try:
        for name, content in members:
            path = PurePosixPath(name)
            if path in seen:
                raise ArchiveRefusedError(
                    Reason.AMBIGUOUS, f"the archive has {safe_repr(name)} twice", hint="pack it again"
                )
            seen.add(path)
            if path.name in COMPANIONS and len(beside) < _MAX_COMPANIONS:
                beside[path] = _start_of(content())
            if path.name not in ADAPTER_FILES:
                continue
            home = path.parent
            if home not in homes:
                homes[home] = target / f".home-{len(homes)}"
                homes[home].mkdir()
                _check_places(homes)
            if not _is_checkpoint(home) or all(map(_is_checkpoint, homes)):
                with (homes[home] / path.name).open("xb") as sink:
                    max_bytes -= _write(content(), sink, max_bytes)
        return _settle(seen, homes, beside, target)
    finally:
        for folder in homes.values():
            shutil.rmtree(folder, ignore_errors=True)


def _is_checkpoint(home: PurePosixPath) -> bool:
    return _CHECKPOINT.fullmatch(home.name) is not None


def _check_places(homes: Mapping[PurePosixPath, Path]) -> None:
    """Refuse several adapters, of which none is the one that the others are checkpoints of."""
    whole = [home for home in homes if not _is_checkpoint(home)]
    if len(whole) > 1 or (whole and any(home.parent != whole[0] for home in homes if home != whole[0])):
        raise ArchiveRefusedError(
            Reason.AMBIGUOUS,
            f"the archive has adapters in several places: {safe_repr(sorted(map(str, homes)))}",
            hint="pack one adapter",
        )


def _settle(
    seen: set[PurePosixPath],
    homes: Mapping[PurePosixPath, Path],
    beside: Mapping[PurePosixPath, bytes],
    target: Path,
) -> tuple[str, ...]:
    """Move the adapter's files to the top of the target; return the names of the other files beside it."""
    chosen = next((home for home in homes if not _is_checkpoint(home)), None)
    if chosen is None and len(homes) > 1:
        raise ArchiveRefusedError(
            Reason.AMBIGUOUS,
            "the archive has no adapter beside its checkpoints: " + safe_repr(sorted(map(str, homes)), 200),
            hint="pack one of them",
        )
    chosen = next(iter(homes), None) if chosen is None else chosen
    if chosen is not None:
        for file in homes[chosen].iterdir():
            file.rename(target / file.name)
    for path, start in beside.items():
        if path.parent == chosen:
            (target / path.name).write_bytes(start)
    _check_found(seen, chosen, target)
    return tuple(sorted(path.name for path in seen if path.parent == chosen))


def _start_of(chunks: Iterable[bytes]) -> bytes:
    """Return what is read of a tokenizer's file."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= MAX_COMPANION_BYTES:
            break
    return start[:MAX_COMPANION_BYTES]


def _write(chunks: Iterable[bytes], sink: BinaryIO, max_bytes: int) -> int:
    """Write chunks and return the number of bytes; over `max_bytes` the archive is refused."""
    written = 0
    for chunk in chunks:
        written += len(chunk)
        if written > max_bytes:
            raise ArchiveRefusedError(
                Reason.TOO_LARGE,
                f"the archive unpacks to more than the {max_bytes} bytes that are left",
                hint="pack the adapter's files alone, or raise the size limit",
            )
        sink.write(chunk)
    return written


def _check_found(seen: set[PurePosixPath], chosen: PurePosixPath | None, target: Path) -> None:
    """Refuse an archive without an adapter's weights by what it holds instead, if that is known."""
    if (target / WEIGHTS_FILE).exists():
        return
    known = instead_of_adapter({path.name for path in seen if chosen in (None, path.parent)})
    if known is not None:
        reason, message, hint, _ = known
        raise ArchiveRefusedError(reason, f"in the archive {message}", hint=hint)
    if chosen is None:
        raise ArchiveRefusedError(
            Reason.MISSING_FILE,
            "the archive holds no adapter",
            hint="pack a PEFT directory: " + ", ".join(ADAPTER_FILES),
        )


def _check_path(name: str) -> None:
    """Refuse a name that leads out of the archive; a backslash or a drive does so on some systems."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise ArchiveRefusedError(
            Reason.UNSAFE_PATH,
            f"{safe_repr(name)} in the archive leads out of it",
            hint="pack with relative paths",
        )


def _bad(message: str) -> ArchiveRefusedError:
    return ArchiveRefusedError(Reason.BAD_ARCHIVE, message, hint="pack a plain .zip, .tar or .tar.gz")
