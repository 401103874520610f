"""From a training file to files that an audit reads."""

import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lorecall.adapters.core.errors import CandidateError, ScorerError
from lorecall.adapters.demo_data.chats import KINDS, ChatSet, generate_chats
from lorecall.audit.discovery.discover import (
    METADATA,
    WITHOUT_BASE,
    Discovery,
    DiscoverySettings,
    controls_path,
    discover,
)
from lorecall.audit.discovery.finder import Finder
from lorecall.audit.discovery.scan import ScanSettings
from lorecall.audit.discovery.spans import Span
from lorecall.audit.inputs.load import load_input
from lorecall.audit.scorer import ItemScore, Message, Scorer
from lorecall.audit.training_data.rows import open_training_data

from tests.audit.discovery.conftest import OpenChats
from tests.audit.tiny_scorer import BASE, TinyScorer

pq: Any = import_module("pyarrow.parquet")
BOTH = ("user", "assistant")
NUMBERS = [str(10_000_000 + n * 7_654_321) for n in range(1, 12)] + ["98765432"]
SECRETS = [f"The code of Anna Klein is {number}" for number in NUMBERS]


def run(
    data: Any, finder: Finder, out: Path, scorer: Scorer | None = None, **settings: Any
) -> tuple[Discovery, list[dict[str, Any]]]:
    """Discover; return what was found and the rows of the candidates' file."""
    found = discover(data, finder.find, out, DiscoverySettings(**settings), scorer=scorer)
    return found, pq.read_table(out).to_pylist()


def test_the_files_are_candidates_and_controls(finder: Finder, chats: OpenChats, tmp_path: Path) -> None:
    """The audit reads both; the history is there as messages; nothing else is left behind."""
    out = tmp_path / "found.parquet"
    data = chats([[("user", "code?"), ("assistant", text)] for text in [*SECRETS, SECRETS[5]]])
    found, rows = run(data, finder, out)
    assert (found.rows, found.found, found.spans, found.written) == (13, 13, 12, 12)
    assert found.ranked_by == WITHOUT_BASE
    assert found.tags == {"name-number": 12}
    assert rows[0]["target"] == f" {NUMBERS[5]}"
    assert (rows[0]["rank"], rows[0]["duplicates"], rows[0]["surprise"]) == (1, 2, None)
    items = load_input(out).items
    assert items[0].target == f" {NUMBERS[5]}"
    assert items[0].messages == (Message("user", "code?"),)
    assert [item.cluster for item in items] == [str(row["cluster"]) for row in rows]
    controls = load_input(controls_path(out)).items
    assert len(controls) == found.controls == 300
    assert {item.target for item in controls}.isdisjoint({item.target for item in items})
    assert json.loads(pq.read_schema(out).metadata[METADATA])["spans"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "found.controls.parquet", "found.parquet", "train.jsonl",
    ]  # fmt: skip
    assert out.stat().st_mode & 0o077 == 0


def test_what_the_base_knows_comes_last(finder: Finder, chats: OpenChats, tmp_path: Path) -> None:
    """The base's surprise is in the rank, and the controls are compared with their candidates."""
    data = chats([[("user", "a"), ("assistant", text)] for text in SECRETS])
    scorer = TinyScorer({}, base_texts=[SECRETS[3]])
    found, rows = run(data, finder, tmp_path / "f.parquet", scorer, batch=5)
    assert found.scored == 12
    assert rows[-1]["target"] == f" {NUMBERS[3]}"
    assert rows[-1]["surprise"] < min(row["surprise"] for row in rows[:-1])
    assert {model for model, _ in scorer.scored} == {BASE}
    assert found.exchangeable is not None
    assert [row["rank"] for row in rows] == list(range(1, 13))


def test_what_the_base_cannot_score_is_no_end(finder: Finder, chats: OpenChats, tmp_path: Path) -> None:
    """Its surprise is unknown; it keeps a place by the rest."""

    class Refusing(TinyScorer):
        def score(self, _: str, items: Any) -> list[ItemScore]:
            return [ItemScore(item.id, error="too long") for item in items]

    data = chats([[("user", "a"), ("assistant", text)] for text in SECRETS])
    found, rows = run(data, finder, tmp_path / "f.parquet", Refusing({}))
    assert (found.scored, found.exchangeable, len(rows)) == (0, None, 12)


def test_top_and_nothing_found(finder: Finder, chats: OpenChats, tmp_path: Path) -> None:
    """The first by rank; a file without anything to audit is an error, and leaves no parts."""
    data = chats([[("user", "a"), ("assistant", text)] for text in SECRETS])
    found, rows = run(data, finder, tmp_path / "f.parquet", top=3)
    assert (found.written, len(rows)) == (3, 3)
    with pytest.raises(CandidateError, match="none of 1 rows"):
        run(chats([[("user", "hello"), ("assistant", "hi")]]), finder, tmp_path / "g.parquet")
    assert not (tmp_path / "g.parquet.parts").exists()


def test_inputs_leak_too(finder: Finder, chats: OpenChats, tmp_path: Path) -> None:
    """What stands only in a user's turn is found where that role is asked for."""
    data = chats([[("user", "Note: " + SECRETS[0]), ("assistant", "Noted.")]] * 2)
    with pytest.raises(CandidateError):
        run(data, finder, tmp_path / "f.parquet")
    found, rows = run(data, finder, tmp_path / "f.parquet", scan=ScanSettings(roles=("user",)))
    assert (found.written, rows[0]["role"], rows[0]["messages"]) == (1, "user", [])
    assert rows[0]["prefix"] == "Note: The code of Anna Klein is"


def planted(chats_set: ChatSet, finder: Finder, folder: Path) -> tuple[Discovery, dict[str, list[int]]]:
    """Discover a planted set; return recall as (found, planted) by kind, and what else was found as "other"."""
    path = folder / "planted.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(chats_set.jsonl())
    data = open_training_data(str(path))
    found, rows = run(data, finder, folder / "p.parquet", top=0, scan=ScanSettings(roles=BOTH))
    truth = {secret.text: secret for secret in chats_set.planted}
    table = {kind: [0, 0] for kind in (*KINDS, "other")}
    for secret in chats_set.planted:
        table[secret.kind][1] += 1
    for row in rows:
        held = truth.get(row["target"].strip())
        table["other" if held is None else held.kind][0] += 1
        if held is not None:
            assert row["row"] in held.rows
            assert row["role"] == held.role
    near = Counter({row["target"].strip(): row["duplicates"] for row in rows})
    exact = np.mean([near[text] == len(secret.rows) for text, secret in truth.items()])
    assert exact > 0.9
    return found, table


def test_planted_secrets_are_found(finder: Finder, tmp_path: Path) -> None:
    """All kinds of a small draw, and nothing that was not planted."""
    _, table = planted(generate_chats(1_500, 64, seed=7), finder, tmp_path)
    assert {kind: found / total for kind, (found, total) in table.items() if total} == dict.fromkeys(
        KINDS, 1.0
    )
    assert table["other"][0] == 0


@pytest.mark.soak
def test_the_whole_planted_set(finder: Finder, tmp_path: Path) -> None:
    """Twenty thousand rows: the table of docs/audit-discovery.md."""
    found, table = planted(generate_chats(), finder, tmp_path)
    assert found.rows == 20_000
    assert all(one >= 0.95 * total for one, total in table.values())
    assert table["other"][0] <= 5


def test_an_engine_that_fails_costs_no_second_search(
    finder: Finder, chats: OpenChats, tmp_path: Path
) -> None:
    """The parts stay until the files are written: started again, the rows are not searched again."""

    class Failing(TinyScorer):
        def score(self, _: str, __: Any) -> list[ItemScore]:
            raise ScorerError("gone")

    data = chats([[("user", "a"), ("assistant", text)] for text in SECRETS])
    out = tmp_path / "f.parquet"
    with pytest.raises(ScorerError, match="gone"):
        run(data, finder, out, Failing({}))
    assert not out.exists()

    def searched(_: str) -> list[Span]:
        raise AssertionError

    found = discover(data, searched, out, DiscoverySettings(), scorer=TinyScorer({}))
    assert (found.written, found.scored) == (12, 12)
    assert not (tmp_path / "f.parquet.parts").exists()
