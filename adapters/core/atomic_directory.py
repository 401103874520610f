"""Write a directory atomically: it appears complete or not at all. Also digest the files of a directory."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """Yield an empty sibling of `out`, renamed to `out` when the block succeeds, removed if it fails.

    An `out` that exists is replaced: it is renamed first and removed last, so a reader never sees an incomplete
    directory. The caller decides whether it may be replaced.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield work
        _make_readable(work)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            out.replace(old)
            work.replace(out)
            shutil.rmtree(old)
        else:
            os.rename(work, out)  # noqa: PTH104 (unlike replace, it fails if another process was faster)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_readable(directory: Path) -> None:
    """Let other users read it, such as a server's: `mkdtemp` and safetensors create private files."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
