"""A long bulk audit against the deterministic test scorer: rows a second, and memory by time, as a table.

python tests/audit/bulk/long_run.py SNIPPETS FOLDER
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from lorecall.server.cli.common.console import say

SERVER = Path(__file__).with_name("hash_server.py")
COMMAND = [sys.executable, "-c", "from lorecall.server.cli.main import main; main()", "audit", "bulk"]
KINDS = {"driver": "audit bulk", "workers": "ray::MapWorker", "test scorer": "hash_server.py"}
REST = "other processes of Ray"
EVERY_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


def digits(text: str) -> str:
    """Return twelve digits that follow from a text."""
    return f"{int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10**12:012}"


def write_snippets(path: Path, count: int, kind: str) -> None:
    """Write snippets of a telephone book to a Parquet file; its size is that of no list in memory."""
    schema = pa.schema({name: pa.string() for name in ("id", "prefix", "target")})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            rows = [
                {"id": f"{kind}-{n}", "prefix": f"{kind} {n}: ", "target": digits(f"{kind} {n}")}
                for n in numbers
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def processes() -> dict[str, tuple[float, float]]:
    """Return resident MiB and CPU seconds so far of this process's descendants, by kind; the rest is Ray's."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, float, float]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        kind = next((kind for kind, part in KINDS.items() if part in line), REST)
        parents[int(folder.name)] = int(fields[1])
        found[int(folder.name)] = (kind, resident / 2**20, (int(fields[11]) + int(fields[12])) / TICKS)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for process, (kind, mib, seconds) in found.items():
        ancestor = parents[process]
        while ancestor > 1 and ancestor != os.getpid():
            ancestor = parents.get(ancestor, 0)
        if ancestor == os.getpid():
            sums[kind][0] += mib
            sums[kind][1] += seconds
    return {kind: (mib, seconds) for kind, (mib, seconds) in sums.items()}


def rows_done(parts: Path) -> int:
    """Return the rows that are written."""
    return sum(pq.read_metadata(file).num_rows for file in parts.rglob("*.parquet") if file.name[0] != ".")


def main(count: int, folder: Path, actors: str) -> None:
    """Run the audit and print the table."""
    files = {"candidates": count, "controls": 1_000}
    for name, rows in files.items():
        if not (folder / f"{name}.parquet").exists():
            write_snippets(folder / f"{name}.parquet", rows, name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out, clock = folder / "out", time.monotonic()
    given = [word for name in files for word in (f"--{name}", str(folder / f"{name}.parquet"))]
    words = [*COMMAND, *given, "--server", f"http://127.0.0.1:{port}", "--adapters", "*", "--out", str(out)]
    words += ["--actors", actors]
    columns = [*KINDS, REST]
    say(f"| seconds | rows | {' | '.join(f'{kind}, MiB' for kind in columns)} |")
    say("|" + "---:|" * (2 + len(columns)))
    spent: dict[str, float] = defaultdict(float)
    with subprocess.Popen([sys.executable, str(SERVER), str(port), "1"]) as server:
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as audit:
            while audit.poll() is None:
                time.sleep(EVERY_S if count < 10**5 else 6 * EVERY_S)
                now = processes()
                for kind, (_, seconds) in now.items():
                    spent[kind] = max(spent[kind], seconds)
                done = rows_done(folder / "out.candidates" / "parts")
                cells = [f"{now.get(kind, (0.0, 0.0))[0]:,.0f}" for kind in columns]
                sys.stdout.flush()
                say(f"| {time.monotonic() - clock:,.0f} | {done:,} | {' | '.join(cells)} |")
        server.terminate()
    (result,) = (out / "results").iterdir()
    table = pq.read_table(result, columns=["set", "id", "verdict"])
    seen = len(set(zip(*(table.column(name).to_pylist() for name in ("set", "id")), strict=True)))
    say(json.dumps({"exit": audit.returncode, "rows": table.num_rows, "distinct": seen}))
    say(json.dumps({"seconds": round(time.monotonic() - clock)} | {k: round(v) for k, v in spent.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *(sys.argv[3:] or ["2"]))
