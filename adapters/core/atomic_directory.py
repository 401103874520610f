"""Write a directory atomically: it appears complete or not at all. Also digest the files of a directory."""

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lorecall.adapters.core.atomic_file import sync, sync_tree
from lorecall.adapters.core.errors import UsageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def digest_files(root: Path, files: Iterable[Path]) -> str:
    """Return the sha256 (hex) over names, sizes and contents of `files`, sorted by path under `root`."""
    whole = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        whole.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        whole.update(content.digest())
    return whole.hexdigest()


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Yield an empty sibling of `out`, which takes its place when the block succeeds, and is removed if it fails.

    An `out` that exists is replaced; the caller decides whether it may be. Whenever the process is killed or the
    power fails, `out` is what it was before, or the whole new directory. Only on systems that cannot exchange two
    directories in one step, as Linux can, may a kill leave no `out`; the next call then puts the old one back.

    Raises:
        UsageError: `out` is a file, or no directory can be made there.
    """
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _recover(out)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UsageError(
            f"{out} cannot be made: {error.strerror}", hint="name a directory that you may write", param="out"
        ) from error
    try:
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out} is a file", hint="name another directory", param="out")
        yield work
        _make_readable(work)
        sync_tree(work)
        if not out.exists():
            os.rename(work, out)  # noqa: PTH104 (unlike replace, it fails if another process was faster)
        elif not _exchange(work, out):
            out.rename(_aside(out))
            work.rename(out)
        sync(out.parent)  # before the old one is deleted
    finally:
        shutil.rmtree(work, ignore_errors=True)
        _recover(out)


def _make_readable(directory: Path) -> None:
    """Let other users read it, such as a server's: `mkdtemp` and safetensors create private files."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; return whether this system and file system could."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # not Linux, or an old C library
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _aside(out: Path) -> Path:
    """Return where the old directory waits while there is no `out`."""
    return out.with_name(f".{out.name}.lorecall-old")


def _recover(out: Path) -> None:
    """Finish what a killed call left between its two renames, or before it deleted the old directory."""
    aside = _aside(out)
    if not aside.exists():
        return
    if out.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.rename(out)
