"""`lorecall audit run` after a kill: it goes on where it was, and reports what an uninterrupted audit reports."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.judging.journal import Journal
from lorecall.server.cli.audit.commands import app
from lorecall.server.cli.audit.sets import JOURNAL
from typer.testing import CliRunner, Result

from tests.audit.conftest import memory_of, phone
from tests.audit.discovery.conftest import finder  # noqa: F401  a fixture
from tests.audit.tiny_scorer import TinyScorer
from tests.audit.tiny_server import serve
from tests.server.cli.audit.test_commands import write_set

PAIRS = tuple(replace(phone(i), tags=("phone", "odd" if i % 2 else "even")[i % 2 :]) for i in range(24))
KILLED = """
import os, signal
left = 5
fsync = os.fsync
def fsync_and_die(handle):
    global left
    fsync(handle)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync_and_die
from lorecall.server.cli.main import main
main()
"""
"""The command, killed after the journal's fifth line or so."""


@pytest.fixture(autouse=True)
def same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of two runs have comparable hashes."""
    monkeypatch.setenv("LORECALL_REPORT_SALT", "of this test")


@pytest.fixture
def engine() -> TinyScorer:
    """An engine whose adapter knows a third of the candidates."""
    return TinyScorer({"leaky": memory_of(PAIRS[:8]), "other": memory_of(PAIRS[:2])})


@pytest.fixture
def url(engine: TinyScorer) -> Iterator[str]:
    """Its server."""
    with serve(engine) as at:
        yield at


@pytest.fixture
def options(url: str, tmp_path: Path) -> list[str]:
    """What all runs of one audit are given, but for the folder."""
    candidates = write_set(tmp_path / "pairs.jsonl", PAIRS)
    controls = write_set(tmp_path / "controls.jsonl", tuple(phone(i, salt=3) for i in range(6)))
    common = ["--server", url, "--adapter", "leaky", "--candidates", str(candidates)]
    return [*common, "--controls", str(controls), "--batch", "3", "--show-text", "--yes"]


def run(options: list[str], out: Path, *more: str) -> Result:
    """Run the audit in this process."""
    return CliRunner().invoke(app, ["run", *options, "--out", str(out), *more])


def report(out: Path) -> dict[str, Any]:
    """A report without what no two audits have in common."""
    values: dict[str, Any] = json.loads((out / "report.json").read_text())
    for name in ("started", "seconds", "seal"):
        del values[name]
    return values


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.candidates") / JOURNAL


def test_killed_it_goes_on_and_reports_the_same(
    engine: TinyScorer, options: list[str], tmp_path: Path
) -> None:
    """SIGKILL in the middle, and a line cut off: only what is missing is asked for, and no journal is left."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(options, whole).exit_code == 1
    words = ["audit", "run", *options, "--out", str(cut)]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = journal_of(cut)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 3
    assert journal.stat().st_mode & 0o777 == 0o600
    assert not any(item.target.encode() in line for item in PAIRS for line in lines)
    journal.write_bytes(b"".join(lines)[:-10])
    engine.scored.clear()
    result = run(options, cut)
    assert result.exit_code == 1, result.output
    assert "going on with the unfinished audit" in result.stderr
    kept = {item.id for item in PAIRS[: 3 * (len(lines) - 2)]}
    asked = {name for _, name in engine.scored}
    assert not kept & asked
    assert {item.id for item in PAIRS} - kept <= asked
    assert report(cut) == report(whole)
    assert not journal.parent.exists()


@pytest.mark.parametrize(
    "more",
    [("--until-bound", "0.5"), ("--budget-tokens", "3000"), ("--budget", "10m"), ("--decode", "likely")],
    ids=str,
)
def test_every_kind_of_audit_goes_on(
    engine: TinyScorer, options: list[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """The engine stops answering at some point; a budget of time is not measured again on the way."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(options, whole, *more)

    def down() -> None:
        if journal_of(cut).is_file() and journal_of(cut).read_bytes().count(b"\n") >= 3:
            raise OSError("down")

    engine.before_score = down
    failed = run(options, cut, *more)
    assert failed.exception, failed.output
    engine.before_score = lambda: None
    assert "going on" in run(options, cut, *more).stderr
    assert report(cut) == report(whole)


def test_another_audit_begins_anew(options: list[str], tmp_path: Path) -> None:
    """A journal of other candidates, settings or another adapter is not gone on with, and that is said.

    It stays as long as nothing was asked.
    """
    out = tmp_path / "out"
    journal = journal_of(out)
    journal.parent.mkdir()
    with Journal(journal, "of something else") as other:
        other.begin({"started": "then"})
    assert "does not pay for the controls" in str(run(options, out, "--budget-tokens", "1").exception)
    assert journal.is_file()
    result = run(options, out)
    assert "is another one, so this one begins anew" in result.stderr
    assert report(out)["summary"]["verdicts"]["certified"] == 8
    assert not journal.exists()


def test_one_folder_takes_one_audit_at_a_time(options: list[str], tmp_path: Path) -> None:
    """A second process would spoil the journal of the first."""
    out = tmp_path / "out"
    journal_of(out).parent.mkdir()
    with Journal(journal_of(out), "of the first"):
        result = run(options, out)
    assert isinstance(result.exception, UsageError)
    assert "another process audits into" in result.exception.message


@pytest.mark.usefixtures("finder")
def test_a_killed_audit_of_training_data_keeps_its_candidates(
    engine: TinyScorer, url: str, tmp_path: Path
) -> None:
    """The search is over: its files are taken as they are, unless the data have changed since."""
    data = tmp_path / "train.jsonl"
    said = [f"The code of Anna Klein is {20_000_000 + i * 654_321}" for i in range(8)]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in said))
    out = tmp_path / "out"
    own = ["--server", url, "--adapter", "other", "--data", str(data), "--batch", "4", "--control-count", "5"]

    def down() -> None:
        if journal_of(out).is_file() and journal_of(out).read_bytes().count(b"\n") >= 2:
            raise OSError("down")

    engine.before_score = down
    assert run(own, out).exception
    engine.before_score = lambda: None
    result = run(own, out)
    assert "taken from an earlier search" in result.stderr, result.output
    assert "going on with the unfinished audit" in result.stderr
    assert len(report(out)["snippets"]) == 13
    data.write_text(data.read_text().replace("Klein", "Gross!"))
    assert "taken from" not in run(own, out).stderr
