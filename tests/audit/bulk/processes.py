"""Command lines in processes of their own, and how to kill what runs for them on a Ray of this process's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ACTOR = b"ray::MapWorker(MapBatches(Worker"
COMMAND = (sys.executable, "-c", "from lorecall.server.cli.main import main; main()")


@contextmanager
def running(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run `lorecall` with some words; it is killed if it outlives the block."""
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code of a process that ends by itself, and what it printed."""
    out, err = process.communicate()
    return process.returncode, out + err


def _is_ours(process: int) -> bool:
    """Return whether a process is a descendant of this one."""
    while process > 1:
        if process == os.getpid():
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def kill_a_worker() -> int:
    """Kill one of this Ray's actors that judge blocks; return its process id."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "cmdline").exists():
            named = (folder / "cmdline").read_bytes().startswith(ACTOR)
            if named and _is_ours(int(folder.name)):
                os.kill(int(folder.name), signal.SIGKILL)
                return int(folder.name)
    raise AssertionError("no actor runs")
