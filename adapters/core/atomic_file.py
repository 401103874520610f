"""Write a file atomically: after a kill or a power cut it is what it was before, or the whole new text."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """Wait until everything in a directory is on the disk; what links point to is left out."""
    for path in (*directory.rglob("*"), directory):
        if not path.is_symlink():
            sync(path)


@contextmanager
def moved_when_whole(part: Path, path: Path) -> Iterator[None]:
    """Let the block write `part`, which then takes the place of `path`; after an error `part` is removed.

    For what is too large to be held in memory, or written by a library; `write_whole` is for the rest.
    """
    try:
        yield
        sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_whole(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Write a file, a text in UTF-8; a file that is there is replaced at once, and keeps its access rights.

    Args:
        path: The file.
        content: Its content.
        private: Only the owner may read and write the file, whatever was there.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    path = path.resolve()  # a link stays a link
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    mode = 0o600 if private else path.stat().st_mode & 0o777 if path.exists() else None
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            if mode is not None:
                os.fchmod(handle, mode)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(handle)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)
