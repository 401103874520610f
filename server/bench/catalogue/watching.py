"""What a server costs from outside: memory, processor time at rest, database writes, its lists, first uses."""

import os
import sqlite3
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from lorecall.server.bench.processes.serving import HttpServer

MIB = 1 << 20
LISTS: Mapping[str, str] = {
    "all models, first time, ms": "/v1/models",
    "all models, again, ms": "/v1/models",
    "a page of 100 models, ms": "/v1/models?limit=100",
    "a page of 100 adapters, ms": "/v1/adapters?limit=100",
}
"""Row to route; in this order, since the first one makes what the second one has."""

PROMPT = list(range(1000, 1032))
"""Any 32 tokens."""


def memory_mib(pid: int) -> float:
    """Return the resident memory of a server's processes, in MiB; `pid` leads their group.

    Pages that two of them share count twice.
    """
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in _group(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a server's processes so far, in seconds."""
    ticks = 0
    for one in _group(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime: proc(5), fields 14 and 15
    return ticks / os.sysconf("SC_CLK_TCK")


def at_rest(pid: int, seconds: float, database: Path | None) -> dict[str, float]:
    """Watch a server that nobody asks anything.

    Args:
        pid: Its first process.
        seconds: How long.
        database: Its SQLite file; None where it has none.

    Returns:
        The share of one core in percent, and in how many of ten parts of that time something was committed.
    """
    writes = 0
    before = cpu_seconds(pid)
    if database is None:
        time.sleep(seconds)
    else:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
            version = _data_version(reader)
            for _ in range(10):
                time.sleep(seconds / 10)
                writes += version != (version := _data_version(reader))
    found = {"at rest, % of a core": 100 * (cpu_seconds(pid) - before) / seconds}
    return found if database is None else {**found, "database writes at rest": float(writes)}


def list_times(server: HttpServer) -> dict[str, float]:
    """Return the times of a lorecall server's lists in milliseconds, by row."""
    found = {}
    for row, route in LISTS.items():
        began = time.perf_counter()
        server.http.get(route).raise_for_status()
        found[row] = 1000 * (time.perf_counter() - began)
    return found


def use_all(server: HttpServer, names: Sequence[str]) -> float:
    """Ask each adapter for one token, one after the other; return the median time in milliseconds."""
    times = []
    for name in names:
        began = time.perf_counter()
        body = {"model": name, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
        server.http.post("/v1/completions", json=body).raise_for_status()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _group(pid: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == pid:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


def _data_version(reader: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has committed: https://sqlite.org/pragma.html."""
    return int(reader.execute("PRAGMA data_version").fetchone()[0])
