"""What a worker does without Ray: it goes on with another server, and says why where none is left."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lorecall.adapters.core.errors import ScorerError
from lorecall.audit.bulk import worker
from lorecall.audit.bulk.spool import Block, blocks_of, read_items, write_blocks
from lorecall.audit.bulk.worker import Asked, Job, Worker
from lorecall.audit.extraction import Extraction
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import ItemScore, Message, ScoreItem, Scorer
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set
from tests.audit.tiny_scorer import TinyScorer


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PAUSE_S", 0.0)


@contextmanager
def opened(scorer: Scorer) -> Iterator[Scorer]:
    yield scorer


def down() -> None:
    raise ScorerError("no server answers", hint="start one")


def ask(sets: dict[Group, CandidateSet], folder: Path, *scorers: TinyScorer) -> list[dict[str, Any]]:
    """Return the rows that a worker gives of the first block, for the first scorer's adapter."""
    write_blocks(sets, folder)
    adapter = Asked(0, "leaky", scorers[0].adapter("leaky").version, 0.0)
    settings = AuditSettings(chunk=3)
    openers = tuple(partial(opened, scorer) for scorer in scorers)
    job = Job(openers, scorers[0].info(), (adapter,), settings, Extraction())
    rows: list[dict[str, Any]] = Worker(job)({"path": [str(folder / "00000000.parquet")]}).to_pylist()
    return rows


def test_another_server_answers_for_one_that_is_down(
    sets: dict[Group, CandidateSet], engine: TinyScorer, pairs: tuple[ScoreItem, ...], tmp_path: Path
) -> None:
    """Each chunk has a server whose turn it is; the next one takes over."""
    other = TinyScorer(engine.adapters)
    other.before_score = down
    rows = ask(sets, tmp_path, engine, other)
    assert [row["id"] for row in rows] == [item.id for item in pairs]
    assert {row["verdict"] for row in rows} == {str(Verdict.CERTIFIED)}
    assert {row["failure"] for row in rows} == {None}


def test_servers_take_turns(
    sets: dict[Group, CandidateSet], engine: TinyScorer, pairs: tuple[ScoreItem, ...], tmp_path: Path
) -> None:
    """Each of two servers scores half of the chunks, through the adapter and through the base."""
    other = TinyScorer(engine.adapters)
    ask(sets, tmp_path, engine, other)
    assert len(engine.scored) == len(other.scored) == len(pairs)


def test_an_outage_that_ends_costs_nothing(
    sets: dict[Group, CandidateSet], engine: TinyScorer, pairs: tuple[ScoreItem, ...], tmp_path: Path
) -> None:
    """The one server is asked again."""
    faults = iter([True, True])

    def sometimes() -> None:
        if next(faults, False):
            down()

    engine.before_score = sometimes
    assert len(ask(sets, tmp_path, engine)) == len(pairs)


def test_a_failure_is_one_row_without_a_text(
    sets: dict[Group, CandidateSet], engine: TinyScorer, tmp_path: Path
) -> None:
    """No server is left."""
    engine.before_score = down
    (row,) = ask(sets, tmp_path, engine)
    assert row["failure"] == "no server answers (start one)"
    assert {name for name, value in row.items() if value is not None} == {"block", "failure"}


def test_a_version_that_changes_gives_no_row(
    sets: dict[Group, CandidateSet], engine: TinyScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows would be of two versions: a swap in the middle of a block is found at its end."""
    before = engine.adapter("leaky")
    score = engine.score

    def swapping(self: TinyScorer, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        del self
        object.__setattr__(after, "version", "f" * 64)
        return score(model, items)

    after = engine.adapter("leaky")
    monkeypatch.setattr(TinyScorer, "adapter", lambda _self, _name: after)
    monkeypatch.setattr(TinyScorer, "score", swapping)
    monkeypatch.setattr(worker, "ROUNDS", 1)
    write_blocks(sets, tmp_path)
    adapter = Asked(0, "leaky", before.version, 0.0)
    job = Job((partial(opened, engine),), engine.info(), (adapter,), AuditSettings(), Extraction())
    (row,) = Worker(job)({"path": [str(tmp_path / "00000000.parquet")]}).to_pylist()
    assert "given a new version" in row["failure"]


def test_blocks_hold_each_set_whole(tmp_path: Path) -> None:
    """What is written is read again: messages, tags and cluster too; no block has items of two sets."""
    items = tuple(ScoreItem(f"i{n}", "p", "t", ("a", "b"), (Message("user", "hé\n"),), "c") for n in range(7))
    few = (ScoreItem("c", "p", "t"),)
    write_blocks({Group.CANDIDATES: as_set(items), Group.CONTROLS: as_set(few)}, tmp_path, 3)
    blocks = blocks_of({Group.CANDIDATES: 7, Group.CONTROLS: 1}, 3)
    assert blocks == [
        Block(0, Group.CANDIDATES, 3),
        Block(1, Group.CANDIDATES, 3),
        Block(2, Group.CANDIDATES, 1),
        Block(3, Group.CONTROLS, 1),
    ]
    found = [list(read_items(pq.read_table(tmp_path / block.file))) for block in blocks]
    assert [len(one) for one in found] == [block.rows for block in blocks]
    assert tuple(item for part in found[:3] for _, _, item in part) == items
    assert found[3] == [(0, Group.CONTROLS, few[0])]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
