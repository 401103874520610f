"""Candidates straight from training data: every answer after its history, every completion, every text."""

from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.inputs.candidates import CandidateSet, TextSplit, Turns
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.training_data.candidates import training_candidates
from lorecall.audit.training_data.rows import open_training_data

from tests.audit.training_data.writing import Rows, write
from tests.tiny import build_tokenizer


def read(path: Path, rows: Rows, **options: Any) -> CandidateSet:
    return training_candidates(open_training_data(str(write(path, rows))), path.name, **options)


CHAT = [
    {"role": role, "content": content}
    for role, content in (
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "r"),
        ("assistant", "b"),
    )
]
SAID = tuple(Message(one["role"], one["content"]) for one in CHAT)


def test_each_answer_of_a_chat_is_a_candidate_after_its_history(tmp_path: Path) -> None:
    """Or the last one only; the report names the format, the rows and what was odd."""
    rows: Rows = [{"id": "x", "messages": CHAT}, {"messages": CHAT[1:3]}, {"messages": CHAT[:2]}]
    found = read(tmp_path / "d.jsonl", rows)
    assert list(found.items) == [
        ScoreItem("1:x#1", "", "a", messages=SAID[:2]),
        ScoreItem("1:x#2", "", "b", messages=SAID[:4]),
        ScoreItem("2#1", "", "a", messages=SAID[1:2]),
    ]
    assert found.generated.startswith("messages training data: 3 rows of 1 file; 1 empty (left out")
    last = read(tmp_path / "d.jsonl", rows, turns=Turns.LAST)
    assert [item.id for item in last.items] == ["1:x", "2"]


def test_a_completion_is_a_candidate_after_its_prompt(tmp_path: Path) -> None:
    """As are both sides of a preference pair."""
    pair = read(tmp_path / "p.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}])
    assert list(pair.items) == [ScoreItem("1", "p", "c"), ScoreItem("1#rejected", "p", "r")]
    alpaca = read(tmp_path / "a.jsonl", [{"instruction": "i", "output": "o"}])
    assert [item.target for item in alpaca.items] == ["o"]
    assert "### Instruction:\ni\n\n### Response:" in alpaca.items[0].prefix


def test_a_text_is_cut_as_the_split_says(tmp_path: Path) -> None:
    """One that is too short for it in its middle; a single word is refused, or counted."""
    (tmp_path / "tokenizer").mkdir()
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    rows = [{"text": "One is. Two is. Three."}, {"text": "four words of text"}]
    found = read(tmp_path / "d.jsonl", rows)
    assert [(item.id, item.prefix, item.target) for item in found.items] == [
        ("1#1", "One is.", " Two is."),
        ("1#2", "Two is.", " Three."),
        ("2#1", "four words", " of text"),
    ]
    windows = read(tmp_path / "d.jsonl", [{"text": "word " * 60}], split=TextSplit.WINDOW)
    assert [len(item.target.split()) for item in windows.items] == [30]
    tokens = read(
        tmp_path / "d.jsonl",
        [{"text": "slings " * 160}],
        split=TextSplit.TOKENS,
        tokenizer=tmp_path / "tokenizer",
    )
    assert len(tokens.items) > 1
    assert tokens.items[0].prefix + tokens.items[0].target in "slings " * 160
    with pytest.raises(UsageError, match="tokenizer"):
        read(tmp_path / "d.jsonl", rows, split=TextSplit.TOKENS)
    with pytest.raises(CandidateError, match="one word"):
        read(tmp_path / "d.jsonl", [*rows, {"text": "word"}])
    assert read(tmp_path / "d.jsonl", [*rows, {"text": "word"}], skip_bad=True).bad_count == 1


def test_rows_that_are_not_in_the_format_are_an_error_or_are_counted(tmp_path: Path) -> None:
    """With their numbers and reasons, never their text; more than are listed are counted, too."""
    bad: Rows = [{"messages": "secret"} for _ in range(30)]
    with pytest.raises(
        CandidateError, match=r"30 bad lines:\n  line 1: 'messages' is text that is no JSON"
    ) as told:
        read(tmp_path / "d.jsonl", [*bad, {"messages": CHAT}])
    assert "secret" not in str(told.value)
    found = read(tmp_path / "d.jsonl", [*bad, {"messages": CHAT}], skip_bad=True)
    assert (len(found.items), found.bad_count) == (2, 30)
