"""Background load beside the measured traffic: churn, audits and floods, by Locust in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.scenario import Scenario
from lorecall.loadtest.target import Target

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
START_S = 60
STOP_S = 60
LAST_S = 20
"""Seconds that a running request may take to end after the stop."""
KINDS = ("add", "swap", "remove", "stream", "audit", "flood")
PREFIX = "loadtest-"
SWAPPED, PASSING = f"{PREFIX}swapped", f"{PREFIX}passing"


@dataclass(frozen=True, slots=True)
class BackgroundRequest:
    """One request of the background; times in seconds on the monotonic clock."""

    name: str
    start: float
    seconds: float
    error: str
    texts: int


def plan(
    scenario: Scenario, target: Target, adapters: Sequence[str], sources: Sequence[Path]
) -> dict[str, Any]:
    """Return the locustfile's plan, except the file for its records.

    Raises:
        LoadtestError: Churn needs directories of adapters, and none were given.
    """
    churn: dict[str, Any] | None = None
    if scenario.churn is not None:
        if not sources:
            raise LoadtestError(
                f"scenario {scenario.name} adds adapters, and no directory of one was given",
                hint="give one or more with --adapter DIR",
            )
        names = {"swapped": SWAPPED, "passing": PASSING, "sources": [str(path) for path in sources]}
        churn = {**dataclasses.asdict(scenario.churn), **names}
    audit: dict[str, Any] | None = None
    if scenario.audit is not None:
        models = {"models": list(adapters), "scores": target.scores()}
        audit = {**dataclasses.asdict(scenario.audit), **models}
    flood: dict[str, Any] | None = None
    if scenario.flood is not None:
        flood = {**dataclasses.asdict(scenario.flood), "model": adapters[0]}
    return {"key": target.key, "churn": churn, "audit": audit, "flood": flood}


@contextmanager
def background(planned: dict[str, Any], target: Target, out: Path) -> Iterator[list[BackgroundRequest]]:
    """Run the background load inside the block; the list is filled when the block ends.

    Args:
        planned: The result of `plan`.
        target: The server.
        out: Directory for Locust's log.

    Raises:
        LoadtestError: Locust does not start, or ends by itself.
    """
    found: list[BackgroundRequest] = []
    kinds = {"ChurnUser": "churn", "AuditUser": "audit", "FloodUser": "flood"}
    users = {name: planned[key].get("clients", 1) for name, key in kinds.items() if planned[key]}
    if not users:
        yield found
        return
    log = out / "locust.log"
    _clear(target)
    with tempfile.TemporaryDirectory(prefix="loadtest-") as work, log.open("w") as sink:
        record = Path(work) / "requests.jsonl"
        record.touch()
        process = subprocess.Popen(  # noqa: S603  (Locust, with our own file)
            command(users, target.url),
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LOADTEST_BACKGROUND": json.dumps({**planned, "record": str(record)})},
        )
        try:
            _wait(process, record, log)
            yield found
        finally:
            ended = process.poll()
            _stop(process)
            _clear(target)
        if ended is not None:
            raise LoadtestError(f"Locust ended by itself with {ended}; its log is {log}")
        found += [
            BackgroundRequest(**json.loads(line)) for line in record.read_text(encoding="utf-8").splitlines()
        ]


def command(users: Mapping[str, int], url: str) -> list[str]:
    """Return Locust's command line: so many users of each kind, until it is stopped."""
    count = str(sum(users.values()))
    return [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--host", url),
        *("--users", count, "--spawn-rate", count, "--stop-timeout", str(LAST_S), "--only-summary"),
        *("--exit-code-on-error", "0", *users),
    ]


def _clear(target: Target) -> None:
    """Remove the adapters of churn."""
    for name in (SWAPPED, PASSING):
        target.unload(name)


def _wait(process: subprocess.Popen[bytes], record: Path, log: Path) -> None:
    """Wait until the first request of the background has ended."""
    for _ in range(START_S * 10):
        if process.poll() is not None:
            words = " ".join(log.read_text(errors="replace").splitlines()[-3:])[-300:]
            raise LoadtestError(
                f"Locust exited with {process.returncode}: {words}", hint="pip install 'lorecall[loadtest]'"
            )
        if record.stat().st_size:
            return
        time.sleep(0.1)
    raise LoadtestError(f"no request of the background ended within {START_S} s; its log is {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def summarise(done: Sequence[BackgroundRequest], began: float, seconds: float) -> dict[str, float]:
    """Return metric to value over the requests that began during the measured traffic.

    Args:
        done: The background's requests.
        began: The traffic's start, on the monotonic clock.
        seconds: Its length.
    """
    inside = [one for one in done if began <= one.start <= began + seconds]
    values: dict[str, float] = {}
    for kind in KINDS:
        ours = [one for one in inside if one.name == kind]
        if not ours:
            continue
        good = [one for one in ours if not one.error]
        values[f"{kind}_failed"] = float(len(ours) - len(good))
        values[f"{kind}_per_s"] = len(good) / seconds
        if good:
            times = [1000 * one.seconds for one in good]
            values[f"{kind}_p50_ms"] = float(np.percentile(times, 50))
    if any(one.name == "audit" for one in inside):
        values["audit_texts_per_s"] = sum(one.texts for one in inside) / seconds
        del values["audit_per_s"]
    return values
