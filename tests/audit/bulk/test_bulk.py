"""Bulk audits on a local Ray: the rows of the one-machine audit, each once, whatever is killed on the way."""

import csv
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.sweep import COLUMNS, Grid, run_sweep
from lorecall.audit.bulk.rows import judged_of
from lorecall.audit.bulk.sweep import sweep_on_ray
from lorecall.audit.inputs.load import load_input
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import AuditResult, SnippetResult
from lorecall.audit.reports.build import read_report
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.transformers_scorer import TransformersScorer
from lorecall.audit.verdicts import Group, Verdict
from lorecall.server.cli.audit.output import make_report

from tests.audit.bulk.processes import finished, kill_a_worker, running
from tests.audit.conftest import KNOWN_LINE, as_set, memory_of, phone
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.tiny import build_tiny_adapter, build_tiny_base

BLOCK = 16
ADAPTERS = ("leaky", "other", "weak")
TEXTS = tuple(ScoreItem(f"t{n}", "the quick brown", f" fox {n} jumps over") for n in range(6))
SWEEP = TrainingOptions(rank=1, epochs=2, batch_size=4)
GRID = Grid(ranks=(1, 4), lengths=(10, 30))
MEASURED = ("deltaL", "base_loss", "loss")


def bulk_engine() -> TinyScorer:
    """An engine with three adapters: over-trained, trained on other pairs, and one that knows half of them."""
    pairs = [phone(i) for i in range(12)]
    half = tuple(item.prefix + item.target for item in pairs[:6])
    adapters = {
        "leaky": memory_of(pairs),
        "other": memory_of([phone(i, salt=11) for i in range(12)]),
        "weak": Memory(half, 0.9, weak={0: 0.02}, prefix_length=len(pairs[0].prefix)),
    }
    return TinyScorer(adapters, base_texts=["".join(KNOWN_LINE)])


@pytest.fixture
def candidates() -> tuple[ScoreItem, ...]:
    """Known pairs, unknown ones, a line that the base knows, and one that no engine takes."""
    known = [replace(phone(i), tags=("phone",)) for i in range(12)]
    unknown = [phone(i, salt=5) for i in range(40)]
    rest = [ScoreItem("line", *KNOWN_LINE), ScoreItem("long", "x" * 300, "y" * 300)]
    return (*known, *unknown, *rest)


@pytest.fixture
def files(
    candidates: tuple[ScoreItem, ...], controls: tuple[ScoreItem, ...], write: Callable[[str, str], Path]
) -> tuple[Path, Path]:
    """The candidates and the controls as files."""
    both = (("candidates.jsonl", candidates), ("controls.jsonl", controls))
    one, other = (
        write(name, "".join(json.dumps(item.record) + "\n" for item in items)) for name, items in both
    )
    return one, other


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Have torch use one thread: several on so small a model wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def command(files: tuple[Path, Path], urls: list[str], out: Path, *more: str) -> list[str]:
    """Return the command line of a bulk audit."""
    given = ["--candidates", str(files[0]), "--controls", str(files[1]), "--adapters", "*", "--out", str(out)]
    servers = [word for url in urls for word in ("--server", url)]
    return [
        "audit",
        "bulk",
        *given,
        *servers,
        "--block",
        str(BLOCK),
        "--batch",
        "5",
        "--together",
        "2",
        *more,
    ]


def rows_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each adapter."""
    tables = [pq.read_table(file).to_pylist() for file in sorted((out / "results").iterdir())]
    return {rows[0]["adapter"]: rows for rows in tables}


def alone(engine: TinyScorer, adapter: str, files: tuple[Path, Path]) -> AuditResult:
    """Return the audit of one adapter on one machine."""
    sets = dict(zip((Group.CANDIDATES, Group.CONTROLS), map(load_input, files), strict=True))
    return run_audit(engine, adapter, sets, AuditSettings(chunk=5))


def assert_same(rows: list[dict[str, Any]], audit: AuditResult) -> None:
    """Compare the rows of an adapter with its audit on one machine: one each, and in everything that counts."""
    assert len(rows) == len(audit.snippets)
    by_name = {(row["set"], row["id"]): row for row in rows}
    assert len(by_name) == len(rows)
    for snippet in audit.snippets:
        row = by_name[str(snippet.group), snippet.item.id]
        assert (row["verdict"], row["p_value"], row["q_value"]) == (
            str(snippet.verdict),
            snippet.p_value,
            snippet.q_value,
        )
        assert judged_of(row) == snippet.judged()
        assert row["decoded_equal"] == _decoded(snippet)


def _decoded(snippet: SnippetResult) -> bool | None:
    return None if snippet.match is None else snippet.match.verbatim


def after(engine: TinyScorer, items: int, act: Callable[[], object]) -> list[object]:
    """Act once, when an engine was asked for so many texts; return where what it gives will be."""
    done: list[object] = []
    lock = threading.Lock()

    def look() -> None:
        with lock:
            if not done and len(engine.scored) >= items:
                done.append(act())

    engine.before_score = look
    return done


def run(words: list[str]) -> tuple[int, str]:
    """Return the exit code of a command line, and what it printed."""
    with running(words) as process:
        return finished(process)


def test_the_rows_are_those_of_one_machine(
    files: tuple[Path, Path], candidates: tuple[ScoreItem, ...], ray_address: str, tmp_path: Path
) -> None:
    """Each pair of adapter and snippet once, with the verdict, p and q of `audit run`; and no text of it."""
    engine, out = bulk_engine(), tmp_path / "out"
    with serve(engine) as one, serve(engine) as other:
        words = command(files, [one, other], out, "--ray", ray_address)
        code, printed = run(words)
        asked = len(engine.scored)
        again, _ = run(words)
        changed, why = run([*words, "--framing", "chat"])
    assert code == again == 1, printed
    assert len(printed.splitlines()) == len(ADAPTERS) + 1, printed  # nothing of Ray's own
    assert len(engine.scored) == asked
    assert (changed, len(why.splitlines())) == (2, 2), why  # the fault, and what to do
    assert "other inputs or options" in why
    rows = rows_of(out)
    assert set(rows) == set(ADAPTERS)
    for adapter in ADAPTERS:
        audit = alone(engine, adapter, files)
        assert_same(rows[adapter], audit)
        report = read_report(out / "reports" / f"{audit.adapter.version}.json")
        told = make_report(audit, Policy(), engine.token_texts, show=False, signer=None)
        assert report.gate == told.gate
        same = ("summary", "controls", "by_tag", "membership", "calibration", "multiplicity", "inputs")
        assert [getattr(report, name) for name in same] == [getattr(told, name) for name in same]
    found = {Verdict(row["verdict"]) for adapter in rows.values() for row in adapter}
    assert {Verdict.CERTIFIED, Verdict.BASE_KNOWN, Verdict.ERROR, Verdict.CLEAR} <= found
    assert not (out.with_name("out.candidates") / "blocks" / "00000000.parquet").exists()
    written = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    values = {str(value) for adapter in rows.values() for row in adapter for value in row.values()}
    for item in candidates[:12]:
        assert item.target.encode() not in written
        assert not any(item.target in value or item.prefix in value for value in values)


def test_a_killed_worker_loses_and_repeats_nothing(
    files: tuple[Path, Path], ray_address: str, tmp_path: Path
) -> None:
    """Ray starts it again, and its block is done again; what Ray has to say of it isn't printed."""
    engine, out = bulk_engine(), tmp_path / "out"
    with serve(engine) as url:
        killed = after(engine, 60, kill_a_worker)
        code, printed = run(command(files, [url], out, "--ray", ray_address))
    assert killed
    assert code == 1, printed
    assert len(printed.splitlines()) == len(ADAPTERS) + 1, printed
    for adapter in ADAPTERS:
        assert_same(rows_of(out)[adapter], alone(bulk_engine(), adapter, files))


def test_a_killed_driver_goes_on(files: tuple[Path, Path], ray_address: str, tmp_path: Path) -> None:
    """Blocks that are done are not asked for again, and the rows are the same."""
    engine, out = bulk_engine(), tmp_path / "out"
    with serve(engine) as url:
        words = command(files, [url], out, "--ray", ray_address, "--actors", "1")
        with running(words) as process:
            killed = after(engine, 200, process.kill)
            finished(process)
        assert killed
        parts = sorted((out.with_name("out.candidates") / "parts").rglob("0*.parquet"))
        done = {row["id"] for file in parts for row in pq.read_table(file).to_pylist()}
        resumed = bulk_engine()
        with serve(resumed) as again:
            code, printed = run(command(files, [again], out, "--ray", ray_address))
    assert code == 1, printed
    repeated = {name for model, name in resumed.scored if model in ("leaky", "other")}
    assert done
    assert not done & repeated
    for adapter in ADAPTERS:
        assert_same(rows_of(out)[adapter], alone(bulk_engine(), adapter, files))


@pytest.mark.usefixtures("_one_thread")
def test_workers_may_have_engines_of_their_own(ray_address: str, tmp_path: Path) -> None:
    """The tiny model, without a server: adapters are folders, and the rows are those of one machine."""
    base = build_tiny_base(tmp_path / "base")
    folders = {name: tmp_path / "adapters" / name for name in ("one", "two")}
    for seed, folder in enumerate(folders.values()):
        build_tiny_adapter(folder, base, seed=seed)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(item.record) + "\n" for item in TEXTS))
    given = ["--base", str(base), "--scorer", "transformers", "--adapters", str(tmp_path / "adapters" / "*")]
    more = [
        "--candidates",
        str(texts),
        "--epsilon",
        "0.1",
        "--block",
        "2",
        "--actors",
        "1",
        "--ray",
        ray_address,
    ]
    words = ["audit", "bulk", *given, *more, "--out", str(tmp_path / "out")]
    code, printed = run([*words, "--gpus", "1"])
    assert code == 2
    assert "a worker needs 1 of GPU, and Ray has 0 in all" in printed
    code, printed = run(words)
    assert code in (0, 1), printed
    found = rows_of(tmp_path / "out")
    scorer = TransformersScorer(base, folders)
    for name in folders:
        assert len(found[name]) == len(TEXTS)
        audit = run_audit(scorer, name, {Group.CANDIDATES: as_set(TEXTS)}, AuditSettings(epsilon=0.1))
        assert {row["id"]: row["verdict"] for row in found[name]} == {
            one.item.id: str(one.verdict) for one in audit.snippets
        }
        assert {row["version"] for row in found[name]} == {audit.adapter.version}


def test_faults_are_told_in_a_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Before Ray is started: no server, no adapter of that name, and neither a server nor a base."""
    engine = bulk_engine()
    with serve(engine) as url:
        words = command(files, [url], tmp_path / "out")
        nobody = [word if word != "*" else "none-*" for word in words]
        lost = [*words, "--ray", "127.0.0.1:1"]
        faults = [(nobody, "no adapter matches 'none-*'"), (lost, "no Ray cluster answers")]
        for given, said in faults:
            code, printed = run(given)
            assert code in (2, 3)
            assert said in printed
            assert len(printed.splitlines()) == 2, printed  # the fault, and what to do


def cells_of(path: Path) -> list[dict[str, str]]:
    """Return the lines of a sweep's file, in the order of their cells."""
    with path.open(encoding="utf-8") as lines:
        return sorted(csv.DictReader(lines), key=lambda row: (int(row["length"]), int(row["rank"])))


@pytest.mark.usefixtures("ray_address", "_one_thread")
def test_a_sweep_has_the_cells_of_one_machine(tmp_path: Path) -> None:
    """The same keys and, but for rounding, the same losses; what is there is not trained again."""
    base, data = build_tiny_base(tmp_path / "base"), tmp_path / "data.jsonl"
    pairs = ({"prefix": f"No {n}:", "target": f"{n * 918273645 % 10**10:010d}"} for n in range(1, 13))
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    list(run_sweep(base, data, one, GRID, SWEEP))
    first, *_, torn = one.read_text().splitlines(keepends=True)
    other.write_text(first + one.read_text().splitlines(keepends=True)[1] + torn[:9])
    cells = list(sweep_on_ray(base, data, other, GRID, SWEEP))
    assert [cell.result is None for cell in cells].count(True) == 1
    for mine, theirs in zip(cells_of(one), cells_of(other), strict=True):
        for name in COLUMNS:
            if name in MEASURED:
                assert float(mine[name]) == pytest.approx(float(theirs[name]), abs=1e-4)
            else:
                assert mine[name] == theirs[name], name
    with pytest.raises(UsageError, match="fewer than the length 999"):
        list(sweep_on_ray(base, data, other, Grid(ranks=(1,), lengths=(999,)), SWEEP))
