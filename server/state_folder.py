"""Where a server keeps its state by default: in the platform's data directory, moved there from a cache.

Older releases kept it under `~/.cache`, which people and tools empty.
"""

import errno
import fcntl
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from lorecall.adapters.core.atomic_file import sync, sync_tree
from lorecall.adapters.core.errors import UsageError
from platformdirs import user_data_path

logger = logging.getLogger("vllm.lorecall")

DATABASE = "registry.db"
TEMPORARY = (".staging", "downloads")
"""What is deleted at the next start anyway."""


def state_folder() -> Path:
    """Return the default folder: `$XDG_DATA_HOME/lorecall/adapters`, on Linux under `~/.local/share`."""
    return user_data_path("lorecall", appauthor=False) / "adapters"


def cached_folder() -> Path:
    """Return the folder that older releases used."""
    return Path.home() / ".cache" / "lorecall" / "adapters"


def move_state(old: Path, new: Path) -> bool:
    """Move the state of an older release, unless there is none; a link to the new place stays at the old one.

    Whenever the move is killed, the whole state is at one place or at both, and the next call goes on. Of several
    servers at once, one moves it and the others wait.

    Returns:
        Whether it was moved now.

    Raises:
        UsageError: A server is using it, or it cannot be moved; it is where it was.
    """
    shutil.rmtree(_aside(old), ignore_errors=True)  # a copy whose deletion was killed
    if not _is_state(old):
        return False
    new.parent.mkdir(parents=True, exist_ok=True)
    with _locked(new.parent / ".moving"):
        if not _is_state(old) or (new.exists() and new.samefile(old)):
            return False
        if new.exists() and any(new.iterdir()):
            logger.warning(
                "%s is not used: the state is in %s. Delete it if nothing in it is needed", old, new
            )
            return False
        try:
            with _exclusive(old / DATABASE) as database:
                _move(old, new, database)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"the state in {old} cannot be moved to {new}: {error}",
                hint=f"stop every lorecall server that uses it, or set LORECALL_STORE={old} to leave it there",
                param="LORECALL_STORE",
            ) from error
    logger.warning("moved the adapters, the registry and its API keys from %s to %s", old, new)
    return True


def _is_state(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and any(folder.iterdir())


def _aside(old: Path) -> Path:
    return old.with_name(f"{old.name}.moved")


def _move(old: Path, new: Path, database: sqlite3.Connection | None) -> None:
    try:
        old.rename(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(old, new, database)
        old.rename(_aside(old))
        shutil.rmtree(_aside(old), ignore_errors=True)
    with suppress(OSError):  # for whoever names the old place; nothing is lost without it
        old.symlink_to(new, target_is_directory=True)


def _copy(old: Path, new: Path, database: sqlite3.Connection | None) -> None:
    """Copy to another file system: `new` appears complete, and is on the disk."""
    work = new.with_name(f"{new.name}.arriving")
    if work.exists():
        shutil.rmtree(work)
    ignored = (*TEMPORARY, f"{DATABASE}*") if database is not None else TEMPORARY
    shutil.copytree(old, work, symlinks=True, ignore=shutil.ignore_patterns(*ignored))
    if database is not None:  # a file that is opened twice would lose its lock when it is closed once
        with closing(sqlite3.connect(work / DATABASE)) as copy:
            database.backup(copy)
    sync_tree(work)
    work.rename(new)
    sync(new.parent)


@contextmanager
def _exclusive(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Hold a SQLite database that nobody else has open, with everything in its one file; None if there is none.

    Raises:
        sqlite3.OperationalError: Another process has it open.
    """
    if not path.exists():
        yield None
        return
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        # To leave the WAL mode needs the file for itself: a connection that is open, even idle, prevents it.
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")  # the lock stays
        yield connection


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
