"""The content-addressed store: the path of a version contains its digest, so it never holds other bytes."""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from lorecall.adapters.core.atomic_file import sync, sync_tree
from lorecall.adapters.core.beneath import Folder
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.core.locked_folders import delete_unlocked, lock_folder, new_locked
from lorecall.adapters.core.refusals import FileRefusedError, Reason, StoreFullError
from lorecall.adapters.peft_format.digest import chunks_of, digest_of, version_digest
from lorecall.adapters.peft_format.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    open_plain,
    read_json_bytes,
)

_STAGING = ".staging"
_VERSION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredVersion:
    """One version in the store.

    Attributes:
        version: 64 hex digits, sha256 over configuration and weights.
        path: The directory to load it from; its files are read-only.
        added: When `ingest` wrote it, as `st_mtime_ns`; 0 if it was there before.
    """

    version: str
    path: Path
    added: int = field(default=0, compare=False)


class Store:
    """A directory of adapter versions. Safe for several threads and processes on one file system.

    Bytes are hashed once when they come in, as they are copied. `verify` hashes the stored copy again, before a
    later load: the disk may have damaged it since.

    Args:
        root: The directory; created when missing. What a crash left behind is deleted at once.
        max_bytes: The largest adapter accepted, in bytes.
        reserve_bytes: What must stay free on the disk after a copy, in bytes.
    """

    def __init__(self, root: Path, *, max_bytes: int = 8 << 30, reserve_bytes: int = 64 << 20) -> None:
        self.root = root.resolve()
        self.max_bytes = max_bytes
        self.reserve_bytes = reserve_bytes
        self._staging = self.root / _STAGING
        self._staging.mkdir(parents=True, exist_ok=True)
        self.delete_leftovers()

    def ingest(self, source: Path | Folder) -> StoredVersion:
        """Copy an adapter directory into the store; the same bytes again give the same version.

        Only the configuration and the weights are copied: what the digest is computed from, as it is written. The
        source is read once. If the version exists already, its copy is verified, and replaced if damaged; the
        disk is waited for only where it does not. The training record is not here, since several names may share
        a version: the registry has one for each.

        Raises:
            FileRefusedError: A file is missing, a pickle, a link out, not a regular file, or too large.
            StoreFullError: The disk has too little room.
        """
        try:
            with self._staged() as staged:
                version = self._copy(source, staged)
                return self._publish(staged, version)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFullError(f"the disk under {self.root} is full", hint="free some space") from error
            raise

    def get(self, version: str) -> StoredVersion:
        """Return the stored version.

        Raises:
            AdapterNotFoundError: The store has no such version.
        """
        path = self.root / version
        if not _VERSION.fullmatch(version) or not path.is_dir():
            raise AdapterNotFoundError(f"version {version[:80]!r} is not in the store", param="version")
        return StoredVersion(version, path)

    def versions(self) -> tuple[str, ...]:
        """Return all stored versions, sorted."""
        return tuple(sorted(p.name for p in self.root.iterdir() if _VERSION.fullmatch(p.name)))

    def verify(self, version: str) -> StoredVersion:
        """Hash a stored version again and return it. From now on it counts as used: see `remove_unused`.

        Raises:
            AdapterNotFoundError: The store has no such version.
            FileRefusedError: Its bytes do not have its digest.
        """
        return self._checked(version, lambda path: _digest(path) == version)

    def _checked(self, version: str, is_whole: Callable[[Path], bool]) -> StoredVersion:
        stored = self.get(version)
        self._mark_used(stored)
        try:
            whole = is_whole(stored.path)
        except FileNotFoundError:
            whole = False
        if not whole:
            raise FileRefusedError(
                Reason.CORRUPT_STORE,
                f"the stored copy of version {version[:12]} is damaged",
                hint="add the adapter again from its source: the store then replaces the copy",
                param="version",
            )
        return stored

    def remove(self, version: str) -> None:
        """Delete a version; processes that have its files open can go on reading.

        Raises:
            AdapterNotFoundError: The store has no such version.
        """
        stored = self.get(version)
        with self._staged() as staged, suppress(FileNotFoundError):  # a concurrent remove won
            stored.path.rename(staged / version)

    def remove_unused(self, version: str, since: float) -> bool:
        """Delete a version unless any process has added or used it since a time; return whether it was deleted.

        Args:
            version: The version.
            since: The time, in seconds since the epoch.

        Raises:
            AdapterNotFoundError: The store has no such version.
        """
        return self._remove_if(self.get(version), lambda used: used <= since * 1e9)

    def take_back(self, stored: StoredVersion) -> None:
        """Delete what one `ingest` added, unless somebody has used it since; what was there before stays."""
        if stored.added:
            self._remove_if(stored, lambda used: used == stored.added)

    def _remove_if(self, stored: StoredVersion, unused: Callable[[int], bool]) -> bool:
        """Delete a version if its last use passes a test. Its lock keeps others from using it meanwhile."""
        with self._staged() as staged:
            handle = lock_folder(stored.path)
            if handle is None:  # in use at this moment, or gone
                return False
            try:
                if not unused(os.fstat(handle).st_mtime_ns):
                    return False
                stored.path.rename(staged / stored.version)
            finally:
                os.close(handle)
        return True

    def _mark_used(self, stored: StoredVersion) -> None:
        """Give a version the time of now.

        Raises:
            AdapterNotFoundError: It has just been deleted.
        """
        handle = lock_folder(stored.path, wait=True)
        if handle is None:
            raise AdapterNotFoundError(
                f"version {stored.version[:12]} has just left the store", param="version"
            )
        try:
            with suppress(PermissionError):  # the copy is of another user, whose servers alone can delete it
                os.utime(handle, ns=(time.time_ns(),) * 2)  # by default the time has steps of milliseconds
        finally:
            os.close(handle)

    def delete_leftovers(self) -> int:
        """Delete what crashed copies left behind; copies in progress, in any process, stay.

        Returns:
            How many were deleted.
        """
        return delete_unlocked(self._staging.iterdir())

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """Yield a new, locked directory; delete it at the end if it still exists."""
        path, handle = new_locked(self._staging)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)

    def _copy(self, source: Path | Folder, staged: Path) -> str:
        config = read_json_bytes(source, CONFIG_FILE)
        with open_plain(source, WEIGHTS_FILE) as weights:
            self._check_room(len(config) + os.fstat(weights.fileno()).st_size)
            _write(staged / CONFIG_FILE, config)
            return digest_of(config, self._copy_chunks(weights, staged / WEIGHTS_FILE))

    def _copy_chunks(self, source: BinaryIO, target: Path) -> Iterator[bytes]:
        copied = 0
        with target.open("xb") as sink:
            for chunk in chunks_of(source):
                copied += len(chunk)
                self._check_size(copied)  # the file may have grown since its size was read
                sink.write(chunk)
                yield chunk
            os.fchmod(sink.fileno(), 0o444)

    def _publish(self, staged: Path, version: str) -> StoredVersion:
        target = self.root / version
        if target.exists():
            try:  # the fresh copy has just been hashed: the other one is whole if it is the same
                return self._checked(version, lambda path: _same(staged, path))
            except FileRefusedError:
                self.remove(version)
            except AdapterNotFoundError:  # another process has just deleted it
                pass
        sync_tree(staged)
        os.utime(staged, ns=(time.time_ns(),) * 2)
        added = staged.stat().st_mtime_ns
        try:
            staged.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return self.verify(version)  # another process was faster
        sync(self.root)
        return StoredVersion(version, target, added)

    def _check_room(self, size: int) -> None:
        self._check_size(size)
        free = shutil.disk_usage(self.root).free
        if size + self.reserve_bytes > free:
            raise StoreFullError(
                f"the adapter needs {size} bytes and {self.reserve_bytes} must stay free; {free} are",
                hint=f"free space under {self.root}, or remove retired versions",
            )

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise FileRefusedError(
                Reason.TOO_LARGE,
                f"the adapter is larger than {self.max_bytes} bytes",
                hint="raise the store's size limit if it is meant to be",
                param=WEIGHTS_FILE,
            )


def folder_for_links(version: Path) -> Path | None:
    """Return a new folder on the file system of a stored version, for hard links; None for what is in no store.

    It is locked while this process lives; what a killed process left there, the next `Store` deletes.
    """
    staging = version.parent / _STAGING
    if not _VERSION.fullmatch(version.name) or not staging.is_dir():
        return None
    return new_locked(staging)[0]  # the handle stays open: it holds the lock


def _digest(version: Path) -> str:
    return version_digest((version / CONFIG_FILE).read_bytes(), version / WEIGHTS_FILE)


def _same(one: Path, other: Path) -> bool:
    """Whether two copies of an adapter have the same bytes."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (one / name).open("rb") as a, (other / name).open("rb") as b:
            if any(x != y for x, y in zip_longest(chunks_of(a), chunks_of(b))):
                return False
    return True


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as sink:
        sink.write(content)
        os.fchmod(sink.fileno(), 0o444)
