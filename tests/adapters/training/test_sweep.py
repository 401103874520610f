"""A sweep trains each cell once, keeps what it has, and writes what the law reads."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training import sweep
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.prepare_input import TrainingInput, prepare_input
from lorecall.adapters.training.sweep import Grid, first_texts, run_sweep
from lorecall.adapters.training.train import TrainingRecord, train_on
from lorecall.audit.law.cells import read_cells
from transformers import AutoTokenizer

from tests.tiny import build_tiny_base

OPTIONS = TrainingOptions(rank=1, epochs=2, batch_size=4)
GRID = Grid(ranks=(1, 4), lengths=(10, 30))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny prepared base."""
    return build_tiny_base(tmp_path_factory.mktemp("sweep") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve texts with targets of ten digits, a token each."""
    path = tmp_path_factory.mktemp("sweep") / "data.jsonl"
    lines = ({"prefix": f"No {n}:", "target": f"{n * 918273645 % 10**10:010d}"} for n in range(1, 13))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def swept(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a whole sweep."""
    out = tmp_path_factory.mktemp("sweep") / "sweep.csv"
    cells = list(run_sweep(base, data, out, GRID, OPTIONS))
    assert all(cell.result is not None for cell in cells)
    return out


def rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of a sweep's file."""
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_every_combination_is_a_cell_with_the_measured_loss(swept: Path) -> None:
    """Four cells, each with its rank and length, and deltaL = base loss - adapter loss, over 0 after training."""
    found = rows(swept)
    assert {(row["rank"], row["length"]) for row in found} == {
        ("1", "10"),
        ("1", "30"),
        ("4", "10"),
        ("4", "30"),
    }
    for row in found:
        assert float(row["deltaL"]) == pytest.approx(float(row["base_loss"]) - float(row["loss"]))
        assert float(row["deltaL"]) > 0
    by_rank = {row["rank"]: int(row["effective_parameters"]) for row in found}
    assert by_rank["4"] == 4 * by_rank["1"]


def test_the_law_reads_the_file(swept: Path) -> None:
    """The columns that the law wants are there, under its names."""
    assert [cell.delta_loss for cell in read_cells(swept)] == [float(row["deltaL"]) for row in rows(swept)]


def test_a_sweep_that_was_cut_off_goes_on(swept: Path, base: Path, data: Path, tmp_path: Path) -> None:
    """Of a file with three of the four cells, only the fourth is trained, and comes out as before."""
    out = tmp_path / "sweep.csv"
    lines = swept.read_text(encoding="utf-8").splitlines(keepends=True)
    out.write_text("".join(lines[:-1]), encoding="utf-8")
    cells = list(run_sweep(base, data, out, GRID, OPTIONS))
    assert [cell.result is None for cell in cells] == [True, True, True, False]
    assert out.read_text(encoding="utf-8") == swept.read_text(encoding="utf-8")


def test_a_torn_line_is_trained_again(
    swept: Path, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off at any byte of its two rows or its header, the file is at the end as if never cut off."""
    texts = first_texts(base, data, 10)
    trained: list[str] = []
    ready: list[TrainingInput] = []
    known: dict[str, TrainingRecord] = {}

    def prepared_once(*what: Any) -> TrainingInput:
        ready.extend([] if ready else [prepare_input(*what)])
        return ready[0]

    def trained_once(ready: TrainingInput, adapter: Path, *rest: Any) -> TrainingRecord:
        """Train each cell once for all the cuts: the same key gives the same adapter."""
        trained.append(adapter.name)
        if adapter.name not in known:
            known[adapter.name] = train_on(ready, tmp_path / adapter.name, *rest)
        adapter.symlink_to(tmp_path / adapter.name)
        return known[adapter.name]

    monkeypatch.setattr(sweep, "first_texts", lambda *_: texts)
    monkeypatch.setattr(sweep, "prepare_input", prepared_once)
    monkeypatch.setattr(sweep, "train_on", trained_once)
    grid = Grid(ranks=(1, 4), lengths=(10,))
    whole = "".join(swept.read_text(encoding="utf-8").splitlines(keepends=True)[:3]).encode()
    rows_end = [match.end() for match in re.finditer(b"\n", whole)]
    out = tmp_path / "sweep.csv"
    for cut in range(len(whole) + 1):
        out.write_bytes(whole[:cut])
        trained.clear()
        list(run_sweep(base, data, out, grid, OPTIONS))
        assert out.read_bytes() == whole, f"cut off at byte {cut}"
        assert trained == ["sft-1", "sft-4"][sum(end <= cut for end in rows_end[1:]) :]


def test_another_option_is_another_cell(swept: Path, base: Path, data: Path, tmp_path: Path) -> None:
    """A cell of another number of epochs does not stand in for this one."""
    out = tmp_path / "sweep.csv"
    out.write_text(swept.read_text(encoding="utf-8"), encoding="utf-8")
    more = TrainingOptions(rank=1, epochs=3, batch_size=4)
    (cell,) = run_sweep(base, data, out, Grid(ranks=(1,), lengths=(10,)), more)
    assert cell.result is not None


def test_other_held_out_texts_are_another_cell(swept: Path, base: Path, data: Path, tmp_path: Path) -> None:
    """The loss on them stands in the row; a cell without them has empty fields, and is not taken for it."""
    out = tmp_path / "sweep.csv"
    out.write_text(swept.read_text(encoding="utf-8"), encoding="utf-8")
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"prefix": "No 99:", "target": "0123456789"}\n', encoding="utf-8")
    for fresh in (True, False):
        (cell,) = run_sweep(base, data, out, Grid(ranks=(1,), lengths=(10,)), OPTIONS, held_out=held_out)
        assert (cell.result is not None) is fresh
    *before, last = rows(out)
    assert {(row["held_out_loss"], row["held_out_base_loss"]) for row in before} == {("", "")}
    assert 0 < float(last["held_out_loss"]) != float(last["held_out_base_loss"])
    assert last["loss"] == before[0]["loss"]


def test_a_length_takes_the_first_texts_that_hold_it(base: Path, data: Path) -> None:
    """Ten tokens are one text, eleven are two."""
    assert [len(first_texts(base, data, length)) for length in (1, 10, 11, 120)] == [1, 1, 2, 12]


def test_one_long_text_is_cut_to_the_length(base: Path, tmp_path: Path) -> None:
    """Its beginning holds that many tokens, the same as in the whole; within a character it is cut after it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    target = " not to be: 555-0123, é or not to be"
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prefix": "To be, or", "target": target}), encoding="utf-8")
    ids = tokenizer(target, add_special_tokens=False).input_ids
    (half,) = (count for count in range(1, len(ids)) if not target.startswith(tokenizer.decode(ids[:count])))
    for length in range(1, len(ids) + 1):
        (pair,) = first_texts(base, path, length)
        cut = tokenizer(pair.target, add_special_tokens=False).input_ids
        assert target.startswith(pair.target)
        assert cut == ids[: length + (length == half)]
    with pytest.raises(UsageError, match=f"holds {len(ids)} target tokens"):
        first_texts(base, path, len(ids) + 1)


def test_a_length_over_the_data_is_refused(base: Path, data: Path) -> None:
    """The error names how many tokens there are."""
    with pytest.raises(UsageError, match="holds 120 target tokens, fewer than the length 121"):
        first_texts(base, data, 121)


def test_a_file_of_another_kind_is_not_appended_to(base: Path, data: Path, tmp_path: Path) -> None:
    """A CSV with other columns is refused and left as it was."""
    out = tmp_path / "other.csv"
    out.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a sweep's file"):
        list(run_sweep(base, data, out, GRID, OPTIONS))
    assert out.read_text(encoding="utf-8") == "a,b\n1,2\n"
    out.write_text("a,b\n1,2", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a sweep's file"):
        list(run_sweep(base, data, out, GRID, OPTIONS))
    assert out.read_text(encoding="utf-8") == "a,b\n1,2", "nor cut"
