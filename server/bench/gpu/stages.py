"""Runs stages one after another, each within its limit, and writes the page after each of them.

A stage is one or more commands that write Markdown pages into a folder. It fails alone: the next one runs. What
was found stays on the page whatever happens later.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

State = Literal["ok", "failed", "over its limit", "skipped"]

LOG_LINES = 3
"""Last lines of a failed stage's log that its result quotes."""

GRACE_S = 10.0
"""Seconds from SIGTERM to SIGKILL for what a stage has started."""

LEAST_SHARE = 0.5
"""A stage does not begin when less than this share of its limit is left."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: Its name, and that of its folder.
        shows: What it shows, for the table.
        limit: Seconds that it may take.
        commands: Its commands, run in order until one fails.
        needs: Top-level modules without which it is skipped.
        why_not: Why it cannot run here, "" where it can.
    """

    name: str
    shows: str
    limit: float
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class StageResult:
    """What came of a stage.

    Attributes:
        stage: The stage.
        state: How it ended.
        seconds: How long it took.
        why: Why it failed or was skipped; "" otherwise.
        found: The Markdown that it wrote, without its titles.
    """

    stage: Stage
    state: State
    seconds: float = 0.0
    why: str = ""
    found: str = ""


def run_stages(
    stages: Sequence[Stage],
    work: Path,
    *,
    seconds: float,
    no_gpu: str = "",
    on_result: Callable[[Sequence[StageResult]], None] = lambda _results: None,
) -> list[StageResult]:
    """Run stages, all together within a number of seconds, and return their results.

    Args:
        stages: In their order.
        work: The folder for their folders and logs.
        seconds: Time for all; one that has no time left is skipped.
        no_gpu: Why there is no GPU: every stage is skipped with it; "" where there is one.
        on_result: Called after each stage with the results so far.
    """
    end = time.monotonic() + seconds
    results: list[StageResult] = []
    for stage in stages:
        left = end - time.monotonic()
        if why_not := no_gpu or stage.why_not:
            results.append(StageResult(stage, "skipped", why=why_not))
        elif missing := [name for name in stage.needs if find_spec(name) is None]:
            results.append(StageResult(stage, "skipped", why=f"not installed here: {', '.join(missing)}"))
        elif left < LEAST_SHARE * stage.limit:
            why = f"{max(left, 0):.0f} of {seconds:g} seconds are left, and it may take {stage.limit:.0f}"
            results.append(StageResult(stage, "skipped", why=why))
        else:
            results.append(_run(stage, work, min(stage.limit, left)))
        on_result(results)
    return results


def page_of(results: Sequence[StageResult], stages: Sequence[Stage], about: str, goals: str) -> str:
    """Return the page: what ran where and when, a table of the stages, and what each has found.

    Args:
        results: Those so far.
        stages: All stages; those without a result are shown as not run.
        about: Card, date and versions.
        goals: What is asked of the numbers.
    """
    rows = ["| stage | what it shows | result | seconds |", "|---|---|---|---|"]
    for stage, result in zip(stages, [*results, *[None] * len(stages)], strict=False):
        if result is None:
            rows.append(f"| {stage.name} | {stage.shows} | not run | |")
        else:
            why = f": {result.why}" if result.why else ""
            rows.append(f"| {stage.name} | {stage.shows} | {result.state}{why} | {result.seconds:.0f} |")
    parts = [f"## {result.stage.name}\n\n{result.found}" for result in results if result.found]
    return "\n\n".join(["# On a GPU", about, goals, "\n".join(rows), *parts]) + "\n"


def _run(stage: Stage, work: Path, limit: float) -> StageResult:
    folder, log = work / stage.name, work / f"{stage.name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    state: State = "ok"
    why = ""
    with log.open("wb") as sink:
        for command in stage.commands:
            code = _wait(command, folder, sink.fileno(), started + limit - time.monotonic())
            if code is None:
                state, why = "over its limit", f"{limit:.0f} seconds"
                break
            if code != 0:
                state, why = "failed", f"exit code {code}: {_last_lines(log)}"
                break
    return StageResult(stage, state, time.monotonic() - started, why, "\n\n".join(_pages(folder)))


def _wait(command: Sequence[str], folder: Path, log: int, limit: float) -> int | None:
    """Run a command in a process group of its own; return its exit code, None if it was ended at the limit."""
    process = subprocess.Popen(  # noqa: S603  (commands of ours)
        [part.replace("{out}", str(folder)) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        return process.wait(max(limit, 0.0))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command and all that it has started; engines and servers are in sessions of their own."""
    started: set[tuple[int, str]] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        started |= _descendants(process.pid)
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    for pid, _ in started & set(_parents()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> set[tuple[int, str]]:
    """Return all processes below one, as (process, start time)."""
    parents = {one: parent for one, parent in _parents().items() if one[0] != pid}
    found: set[tuple[int, str]] = set()
    below = {pid}
    while below:
        new = {one for one, parent in parents.items() if parent in below} - found
        found |= new
        below = {one[0] for one in new}
    return found


def _parents() -> dict[tuple[int, str], int]:
    """Return the parent of each process, by (process, start time): a number alone may be given again."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            found[int(stat.parent.name), fields[19]] = int(fields[1])
    return found


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-LOG_LINES:]).replace("|", "\\|")[:300]


def _pages(folder: Path) -> Iterator[str]:
    """Yield the Markdown of a stage's folder, titles of pages left out."""
    for page in sorted(folder.glob("*.md")):
        lines = page.read_text(encoding="utf-8").splitlines()
        yield "\n".join(line for line in lines if not line.startswith("# ")).strip()
