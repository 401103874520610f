"""One small Ray for the session, which command lines connect to, and how to kill what runs on it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from lorecall.audit.bulk.cluster import LOCAL, started

ACTOR = b"ray::MapWorker(MapBatches(Worker"


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a Ray of two cores; to start one takes seconds."""
    with started(LOCAL, cpus=2):
        yield ray.get_runtime_context().gcs_address


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
