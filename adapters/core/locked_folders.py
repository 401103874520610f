"""Working folders that are locked while their process lives, so that those of killed ones can be deleted."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path


def new_locked(parent: Path, prefix: str = "", mode: int = 0o777) -> tuple[Path, int]:
    """Return a new folder in `parent` and the handle that locks it; its mode is less the umask, as always."""
    handle = None
    while handle is None:  # `delete_unlocked` may delete the folder before it is locked
        path = parent / f"{prefix}{uuid.uuid4().hex}"
        path.mkdir(mode)
        handle = lock_folder(path)
    return path, handle


def lock_folder(path: Path, *, wait: bool = False) -> int | None:
    """Lock a folder while the returned handle is open; None if it is gone, or held and we do not wait."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def delete_unlocked(paths: Iterable[Path]) -> int:
    """Delete the folders that no living process holds; return how many were deleted."""
    deleted = 0
    for path in paths:
        handle = lock_folder(path)
        if handle is not None:
            shutil.rmtree(path, ignore_errors=True)  # a cleaner of old files may be faster
            os.close(handle)
            deleted += not path.exists()
    return deleted
