"""Fetch an adapter from a local path, an archive, the Hugging Face hub, S3 or another fsspec file system."""

import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr
from lorecall.adapters.intake.archive import ARCHIVE_SUFFIXES, unpack
from lorecall.adapters.intake.download import Deadline, Download

_LOCAL = "file"
_ARCHIVE = "archive"
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.+)", re.ASCII)
_MAX_SOURCE_CHARACTERS = 1000
_ABANDONED_SECONDS = 24 * 3600
_LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SourcePolicy:
    """Which sources this server may read.

    Attributes:
        local_roots: Directories under which local adapters may lie; none by default.
        schemes: fsspec protocols that are allowed.
        max_bytes: The largest adapter, in bytes.
        storage_options: fsspec's options by scheme: endpoints and the server's own credentials.
        download_seconds: How long one download may take, with the wait for another of the same source.
    """

    local_roots: tuple[Path, ...] = ()
    schemes: frozenset[str] = frozenset({"hf", "s3"})
    max_bytes: int = 8 << 30
    storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    download_seconds: float = 3600.0


def is_local(source: str) -> bool:
    """Return whether a source is a path on the server's own machine."""
    match = _URL.fullmatch(source)
    return match is None or match["scheme"] == _LOCAL


class Sources:
    """Makes an adapter's files available in a local directory, for the store to copy.

    Safe for threads, and for several processes with the same staging directory.

    Args:
        staging: A directory for unfinished downloads; they survive a restart and are deleted after a day.
        policy: Which sources may be read.
    """

    def __init__(self, staging: Path, policy: SourcePolicy) -> None:
        self.policy = policy
        self._staging = staging.resolve()
        self._staging.mkdir(parents=True, exist_ok=True)
        self._stopping = threading.Event()
        self._delete_abandoned()

    def stop(self) -> None:
        """End every download, now and later: the process ends."""
        self._stopping.set()

    def check(self, source: str) -> None:
        """Check the address of a source without reading the source.

        Raises:
            SourceRefusedError: It is malformed or not allowed here.
        """
        self._parse(source)

    @contextmanager
    def fetched(self, source: str) -> Iterator[Path]:
        """Yield a directory with the adapter's files, for `Store.ingest`; it is valid during the block.

        A local directory is yielded itself. An interrupted download is resumed, also by another process; a
        complete one is deleted when the block ends.

        Args:
            source: `/path`, `file:///path`, `hf://org/repo[@revision][/path]`, `s3://bucket/key` or another
                address whose scheme the policy allows: a PEFT directory, or an archive by its suffix.

        Raises:
            RefusedError: The source is not allowed, or what it holds is no adapter.
            StoreFullError: The disk has too little room.
        """
        scheme = self._parse(source)
        if scheme == _LOCAL:
            with self._local(source) as directory:
                yield directory
            return
        deadline = Deadline(self.policy.download_seconds, self._stopping)
        with self._locked(hashlib.sha256(source.encode()).hexdigest(), source, deadline) as place:
            download = Download(
                scheme,
                source,
                self.policy.storage_options.get(scheme, {}),
                max_bytes=self.policy.max_bytes,
                deadline=deadline,
            )
            if source.endswith(ARCHIVE_SUFFIXES):
                download.file(place / _ARCHIVE)
            else:
                download.directory(place)
            try:  # an incomplete download stays for the next attempt, a complete one is deleted
                if source.endswith(ARCHIVE_SUFFIXES):
                    with (place / _ARCHIVE).open("rb") as archive:
                        yield self._unpacked(archive, place)
                else:
                    yield place
            finally:
                shutil.rmtree(place)

    @contextmanager
    def uploaded(self, archive: BinaryIO) -> Iterator[Path]:
        """Yield a directory with the files of an uploaded archive; it is valid during the block.

        Args:
            archive: A seekable file of zip, tar or tar.gz.

        Raises:
            ArchiveRefusedError: It is no such archive, is unsafe, or holds no adapter.
        """
        with self._locked(uuid.uuid4().hex) as place:
            try:
                yield self._unpacked(archive, place)
            finally:
                shutil.rmtree(place)

    def _parse(self, source: str) -> str:
        """Return the scheme of an allowed source; `_LOCAL` for local paths."""
        if len(source) > _MAX_SOURCE_CHARACTERS or not source.isprintable() or "::" in source:
            raise _not_allowed(f"{safe_repr(source)} is no source", "one plain path or address")
        match = _URL.fullmatch(source)
        scheme = match["scheme"] if match else _LOCAL
        if scheme == _LOCAL:
            self._local_path(source)
        elif scheme not in self.policy.schemes:
            allowed = ", ".join(f"{scheme}://" for scheme in sorted(self.policy.schemes)) or "uploads"
            raise _not_allowed(f"this server reads nothing from {scheme}://", f"it reads from {allowed}")
        elif ".." in source.split("/"):
            raise SourceRefusedError(
                Reason.UNSAFE_PATH,
                f"{safe_repr(source)} has .. in it",
                hint="name the place itself",
                param="source",
            )
        elif scheme != "hf" and "@" in source.split("/")[2]:
            raise _not_allowed("the source has credentials in it", "the server uses its own")
        return scheme

    def _local_path(self, source: str) -> Path:
        path = Path(source.removeprefix("file://"))
        resolved = Path(os.path.realpath(path))
        roots = [Path(os.path.realpath(root)) for root in self.policy.local_roots]
        if not path.is_absolute() or not any(resolved.is_relative_to(root) for root in roots):
            hint = "an absolute path under " + ", ".join(map(str, roots)) if roots else "upload an archive"
            raise _not_allowed(f"this server does not read {safe_repr(source)}", hint)
        return resolved

    @contextmanager
    def _local(self, source: str) -> Iterator[Path]:
        path = self._local_path(source)
        if path.is_dir():
            yield path
        elif path.is_file() and path.name.endswith(ARCHIVE_SUFFIXES):
            with path.open("rb") as archive, self.uploaded(archive) as directory:
                yield directory
        else:
            raise SourceRefusedError(
                Reason.MISSING_FILE,
                f"there is no adapter at {safe_repr(source)}",
                hint="name a PEFT directory, or an archive: " + ", ".join(ARCHIVE_SUFFIXES),
                param="source",
            )

    def _unpacked(self, archive: BinaryIO, place: Path) -> Path:
        target = place / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        limit = shutil.disk_usage(target).free // 2  # the sizes that an archive states are not trusted
        unpack(archive, target, max_bytes=min(self.policy.max_bytes, limit))
        return target

    @contextmanager
    def _locked(self, name: str, source: str = "", deadline: Deadline | None = None) -> Iterator[Path]:
        """Yield the staging directory of that name, locked against other threads and processes."""
        place = self._staging / name
        lock = self._staging / f"{name}.lock"
        while True:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock(handle, source, deadline)
            except BaseException:
                os.close(handle)
                raise
            if _is_at(handle, lock):  # its last owner may have deleted it while we waited
                break
            os.close(handle)
        try:
            place.mkdir(exist_ok=True)
            yield place
        finally:
            if not any(place.glob("*")):  # nothing to resume
                shutil.rmtree(place, ignore_errors=True)
                lock.unlink()
            os.close(handle)

    def _delete_abandoned(self) -> None:
        """Delete downloads that nobody resumed for a day."""
        for path in self._staging.glob("*.lock"):
            place = path.with_suffix("")
            latest = max((file.stat().st_mtime for file in (path, *place.glob("*"))), default=0.0)
            if time.time() - latest < _ABANDONED_SECONDS:
                continue
            with self._locked(place.name):
                shutil.rmtree(place)


def _lock(handle: int, source: str, deadline: Deadline | None) -> None:
    """Lock a file, waiting for its owner until the deadline."""
    if deadline is None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            deadline.check(source)
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _not_allowed(message: str, hint: str) -> SourceRefusedError:
    return SourceRefusedError(Reason.SOURCE_NOT_ALLOWED, message, hint=hint, param="source")
