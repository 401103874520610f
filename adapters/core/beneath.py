"""Open files below a root that others may write to: no link leads out, also one that is put there meanwhile."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_LINKS = 40
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a named pipe must not wait for a writer
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # O_PATH needs no right to list
_LINK_ERRORS = {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}


class LeavesRootError(OSError):
    """A path that leads out of its root, or to a place in it that is not to be read."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory whose files are opened step by step from a root, so that none of them lies outside.

    Links are followed as far as they stay below the innermost root. Folders may be swapped for links, and back,
    at any time.

    Attributes:
        path: The directory, without links.
        roots: Directories around it without links, from the outermost, which the operator named, inwards.
        barred: (device, inode) of directories that are not entered.
    """

    path: Path
    roots: tuple[Path, ...]
    barred: frozenset[tuple[int, int]] = frozenset()

    @staticmethod
    def of(directory: "Path | Folder") -> "Folder":
        """Return a directory of our own as a folder that is its own root."""
        if isinstance(directory, Folder):
            return directory
        real = Path(os.path.realpath(directory))
        return Folder(real, (real,))

    def open(self, name: str = ".") -> int:
        """Open a file of the folder for reading, or the folder itself; return the file descriptor.

        Raises:
            LeavesRootError: It lies outside.
            OSError: It cannot be opened.
        """
        handle, base = os.open(self.roots[0], _STEP), self.roots[0]
        for inner in self.roots[1:]:
            handle, base = self._step(handle, base, inner, _STEP), inner
        return self._step(handle, base, self.path / name, _READ)

    def names(self) -> list[str]:
        """Return the names in the folder, sorted. Raises OSError."""
        handle = self.open()
        try:
            return sorted(os.listdir(handle))  # noqa: PTH208  (a path could be another folder by now)
        finally:
            os.close(handle)

    def _step(self, root: int, base: Path, path: Path, flags: int) -> int:
        """Open a path below `root`, which is open at `base` and is closed here."""
        opened = [root]
        try:
            return self._descend(opened, base, path, flags)
        finally:
            for handle in opened:
                os.close(handle)

    def _descend(self, opened: list[int], base: Path, path: Path, flags: int) -> int:
        pending, links = _parts_below(base, path), 0
        while pending:
            part = pending.pop()
            if part == "..":
                if len(opened) == 1:
                    raise _leaves(path)
                os.close(opened.pop())
                continue
            try:
                handle = os.open(part, (flags if not pending else _STEP) | os.O_NOFOLLOW, dir_fd=opened[-1])
            except OSError as error:
                links += 1
                if error.errno not in _LINK_ERRORS or links > MAX_LINKS:
                    raise
                pending += _behind(part, opened, base, error)
                continue
            state = os.fstat(handle)
            if (state.st_dev, state.st_ino) in self.barred:
                os.close(handle)
                raise _leaves(path)
            if not pending:
                return handle
            opened.append(handle)
        return os.open(".", flags, dir_fd=opened[-1])


def identities(directories: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Return (device, inode) of the directories that exist, for `Folder.barred`."""
    states = [path.stat() for path in directories if path.is_dir()]
    return frozenset((state.st_dev, state.st_ino) for state in states)


def _parts_below(base: Path, path: Path) -> list[str]:
    if not path.is_relative_to(base):
        raise _leaves(path)
    return _parts(str(path.relative_to(base)))


def _parts(path: str) -> list[str]:
    """Return the parts of a relative path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _behind(name: str, opened: list[int], base: Path, error: OSError) -> list[str]:
    """Return the parts that a link stands for; raise the error of opening it if it is none."""
    try:
        target = os.readlink(name, dir_fd=opened[-1])
    except OSError:
        raise error from None
    if not target.startswith("/"):
        return _parts(target)
    while len(opened) > 1:
        os.close(opened.pop())
    # Where it leads now is only a hint: the way there is walked like any other.
    return _parts_below(base, Path(os.path.realpath(target)))


def _leaves(path: Path) -> LeavesRootError:
    return LeavesRootError(errno.EXDEV, "it leads out of the folders that may be read", str(path))
