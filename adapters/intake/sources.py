"""Fetch an adapter from a local path, an archive, the Hugging Face hub, S3 or another fsspec file system."""

import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lorecall.adapters.access.source_list import LOCAL, Place, SourceList, read_place, refused
from lorecall.adapters.core.beneath import Folder, LeavesRootError, identities
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr
from lorecall.adapters.intake.archive import ARCHIVE_SUFFIXES, unpack
from lorecall.adapters.intake.download import Deadline, Download

_ARCHIVE = "archive"
_OTHER_ARCHIVES = (".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".7z", ".rar")
_ABANDONED_SECONDS = 24 * 3600
_LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SourcePolicy:
    """Which sources this server may read.

    Attributes:
        allowed: What adapters may be added from: addresses and local directories.
        barred: What is not read although it lies in there, such as other people's adapters in our store.
        max_bytes: The largest adapter, in bytes.
        storage_options: fsspec's options by scheme: endpoints and the server's own credentials.
        download_seconds: How long one download may take, with the wait for another of the same source.
    """

    allowed: SourceList = field(default_factory=lambda: SourceList(("hf://*", "s3://*")))
    barred: SourceList = field(default_factory=lambda: SourceList(()))
    max_bytes: int = 8 << 30
    storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    download_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """An adapter that can be read on this machine.

    Attributes:
        files: The directory with its files, for `Store.ingest`.
        address: Where they came from: at a commit of the hub, or with the versions or etags that S3 has.
        beside: The names of all files in the adapter's folder, as far as the source lists them.
    """

    files: Path | Folder
    address: str
    beside: tuple[str, ...] = ()


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

    def check(self, source: str, asker: SourceList | None = None) -> None:
        """Check the address of a source without reading the source; see `fetched`.

        Raises:
            SourceRefusedError: It is malformed or not allowed.
        """
        self._roots(read_place(source), source, asker)

    @contextmanager
    def fetched(
        self, source: str, asker: SourceList | None = None, *, our_own: bool = False
    ) -> Iterator[Fetched]:
        """Yield an adapter's files; they are valid during the block.

        A local directory is yielded itself. An interrupted download is resumed, also by another process; a
        complete one is deleted when the block ends.

        Args:
            source: `/path`, `file:///path`, `hf://org/repo[@revision][/path]`, `s3://bucket/key` or another
                address that the policy allows: a PEFT directory, or an archive by its suffix. An address that was
                pinned gives the same bytes as then, or an error.
            asker: What the caller may read of what the policy allows; None for all of it.
            our_own: Whether the operator named the source, so that no list counts.

        Raises:
            RefusedError: The source is not allowed, or what it holds is no adapter.
            StoreFullError: The disk has too little room.
        """
        place = read_place(source)
        roots = (place,) if our_own else self._roots(place, source, asker)
        if place.scheme == LOCAL:
            with self._local(source, self._folder(place, roots, our_own=our_own)) as fetched:
                yield fetched
            return
        if place.address.endswith(_OTHER_ARCHIVES):
            raise _no_adapter(source)
        packed = place.address.endswith(ARCHIVE_SUFFIXES)
        deadline = Deadline(self.policy.download_seconds, self._stopping)
        with self._locked(hashlib.sha256(source.encode()).hexdigest(), source, deadline) as directory:
            download = self._download(place, deadline)
            if packed:
                download.file(directory / _ARCHIVE)
            else:
                download.directory(directory)
            try:  # an incomplete download stays for the next attempt, a complete one is deleted
                if packed:
                    with (directory / _ARCHIVE).open("rb") as archive:
                        files, beside = self._unpacked(archive, directory)
                        yield Fetched(files, download.pinned, beside)
                else:
                    download.beside(directory)
                    yield Fetched(directory, download.pinned, download.names())
            finally:
                shutil.rmtree(directory, ignore_errors=True)  # a cleaner of old files may be faster

    def _download(self, place: Place, deadline: Deadline) -> Download:
        options = self.policy.storage_options.get(place.scheme, {})
        return Download(place, options, max_bytes=self.policy.max_bytes, deadline=deadline)

    @contextmanager
    def uploaded(self, archive: BinaryIO, source: str = "") -> Iterator[Fetched]:
        """Yield the files of an uploaded archive; they are valid during the block.

        Args:
            archive: A seekable file of zip, tar or tar.gz.
            source: What to call it.

        Raises:
            ArchiveRefusedError: It is no such archive, is unsafe, or holds no adapter.
        """
        with self._locked(uuid.uuid4().hex) as place:
            try:
                files, beside = self._unpacked(archive, place)
                yield Fetched(files, source, beside)
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def _roots(self, place: Place, source: str, asker: SourceList | None) -> tuple[Place, ...]:
        """Return the entries of the policy's list and of the caller's that a place lies in, the wider first.

        Raises:
            SourceRefusedError: It is not allowed.
        """
        theirs = None if asker is None else asker.around(place)
        if asker is not None and theirs is None:
            raise refused(f"this API key may not read {safe_repr(source)}", f"it may read {asker}")
        ours = self.policy.allowed.around(place)
        if ours is None or self.policy.barred.around(place) is not None:
            known = self.policy.allowed if asker is None else asker
            raise refused(f"this server does not read {safe_repr(source)}", f"it reads {known}")
        if theirs is None:
            return (ours,)
        return (ours, theirs) if len(theirs.segments) > len(ours.segments) else (ours,)

    def _folder(self, place: Place, roots: tuple[Place, ...], *, our_own: bool) -> Folder:
        barred = [] if our_own else [one for one in self.policy.barred.places() if one.scheme == LOCAL]
        return Folder(
            Path(place.address),
            tuple(Path(root.address) for root in roots),
            identities(Path(one.address) for one in barred),
        )

    @contextmanager
    def _local(self, source: str, folder: Folder) -> Iterator[Fetched]:
        try:
            handle = folder.open()
        except LeavesRootError as error:
            problem = f"this server does not read {safe_repr(source)}"
            raise refused(problem, "a link there leads out of its folders") from error
        except OSError as error:
            raise _no_adapter(source) from error
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode) and folder.path.name.endswith(ARCHIVE_SUFFIXES):
            with os.fdopen(handle, "rb") as archive, self.uploaded(archive, source) as fetched:
                yield fetched
            return
        os.close(handle)
        if not stat.S_ISDIR(mode):
            raise _no_adapter(source)
        beside: tuple[str, ...] = ()
        with suppress(OSError):  # it may be read and not listed, or be gone by now
            beside = tuple(folder.names())
        yield Fetched(folder, source, beside)

    def _unpacked(self, archive: BinaryIO, place: Path) -> tuple[Path, tuple[str, ...]]:
        target = place / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        limit = shutil.disk_usage(target).free // 2  # the sizes that an archive states are not trusted
        return target, unpack(archive, target, max_bytes=min(self.policy.max_bytes, limit))

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
            with suppress(FileExistsError):  # `exist_ok` fails if it is deleted at this moment
                place.mkdir()
            yield place
        finally:
            with suppress(OSError):  # there is something to resume
                place.rmdir()
            if not place.exists():
                lock.unlink(missing_ok=True)
            os.close(handle)

    def _delete_abandoned(self) -> None:
        """Delete downloads that nobody resumed for a day; other servers may delete or resume the same ones."""
        for lock in self._staging.glob("*.lock"):
            if _is_abandoned(lock):
                with self._locked(lock.stem) as place:
                    if _is_abandoned(lock):
                        shutil.rmtree(place, ignore_errors=True)


def _is_abandoned(lock: Path) -> bool:
    """Return whether a download that has this lock is there, and was not touched for a day."""
    try:
        latest = max(file.stat().st_mtime for file in (lock, *lock.with_suffix("").glob("*")))
    except FileNotFoundError:  # somebody is deleting or resuming it
        return False
    return time.time() - latest >= _ABANDONED_SECONDS


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


def _no_adapter(source: str) -> SourceRefusedError:
    if source.endswith(_OTHER_ARCHIVES):
        return SourceRefusedError(
            Reason.BAD_ARCHIVE,
            f"{safe_repr(source)} is an archive of a kind that is not read here",
            hint="pack it again: tar czf adapter.tar.gz -C DIR .",
            param="source",
        )
    return SourceRefusedError(
        Reason.MISSING_FILE,
        f"there is no adapter at {safe_repr(source)}",
        hint="name a PEFT directory, or an archive: " + ", ".join(ARCHIVE_SUFFIXES),
        param="source",
    )
