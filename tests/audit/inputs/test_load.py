"""Candidates from tables, dataset folders, plain text and chats."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.inputs import load
from lorecall.audit.inputs.candidates import Turns, load_candidates
from lorecall.audit.inputs.load import TOKENS, TextSplit, load_input
from lorecall.audit.scorer import ScoreItem
from tokenizers import Tokenizer

from tests.tiny import build_tokenizer

HAS_ARROW = find_spec("pyarrow") is not None
pa: Any = import_module("pyarrow") if HAS_ARROW else None
pq: Any = import_module("pyarrow.parquet") if HAS_ARROW else None
tables = pytest.mark.skipif(not HAS_ARROW, reason="tables need the optional pyarrow")
Write = Callable[[str, str | bytes], Path]
ROWS = [
    {"id": "a", "prefix": "p", "target": "t", "query": None},
    {"id": "b", "prefix": None, "target": "u", "query": "q"},
]
ITEMS = (ScoreItem("a", "p", "t"), ScoreItem("b", "q", "u"))


@tables
def test_a_parquet_file_is_read_like_json_lines(tmp_path: Path) -> None:
    """The same field names; a column that is null in a row is not there."""
    path = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    loaded = load_input(path)
    assert loaded.items == ITEMS
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@tables
def test_a_dataset_folder_is_read_whole(tmp_path: Path) -> None:
    """Every Arrow stream below the folder, as Hugging Face datasets saves them."""
    for number, row in enumerate(ROWS):
        table = pa.Table.from_pylist([row])
        with (
            (tmp_path / f"data-{number}.arrow").open("wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    assert load_input(tmp_path).items == ITEMS


@tables
def test_bad_rows_are_counted_like_bad_lines(tmp_path: Path) -> None:
    """With their number and reason."""
    path = tmp_path / "c.parquet"
    pq.write_table(
        pa.Table.from_pylist([ROWS[0], {"id": "x", "prefix": "p", "target": "", "query": None}]), path
    )
    with pytest.raises(CandidateError, match="line 2: 'target' is empty"):
        load_input(path)
    assert len(load_input(path, skip_bad=True).bad) == 1


@tables
def test_what_is_no_table_or_no_dataset_is_refused(write: Write, tmp_path: Path) -> None:
    """A file that only ends on .parquet, and a folder without tables."""
    with pytest.raises(CandidateError, match="is no table"):
        load_input(write("c.parquet", "no table"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CandidateError, match="holds no"):
        load_input(tmp_path / "empty")


def test_text_is_split_by_sentence(write: Write) -> None:
    """Each sentence is asked for after the one before it."""
    path = write("t.txt", "One is here. Two\nfollows it! Three? Four.")
    pairs = [(i.prefix, i.target) for i in load_input(path).items]
    assert pairs == [
        ("One is here.", " Two follows it!"),
        ("Two follows it!", " Three?"),
        ("Three?", " Four."),
    ]


def test_text_is_split_by_sliding_window(write: Write) -> None:
    """Every word after the first thirty is in one target, in order."""
    words = [f"w{i}" for i in range(100)]
    items = load_input(write("t.txt", " ".join(words)), split=TextSplit.WINDOW).items
    assert [len(i.prefix.split()) for i in items] == [30, 30, 30]
    assert [word for i in items for word in i.target.split()] == words[30:]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer.json, as a base's folder has."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return folder


def test_text_is_split_by_tokens_within_each_paragraph(write: Write, tokenizer: Path) -> None:
    """Each fifty tokens are asked for after the fifty before; nothing is lost, nothing crosses a paragraph."""
    count = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    paragraphs = [" ".join(f"word {i}, ça va" for i in range(words)) for words in (60, 25)]
    path = write("t.txt", f"\n{paragraphs[0]}\n \n\n{paragraphs[1]}\n")
    found = load_input(path, split=TextSplit.TOKENS, tokenizer=tokenizer).items
    for number, paragraph in enumerate(paragraphs, start=1):
        mine = [item for item in found if item.id.startswith(f"{number}#")]
        assert len(mine) == (len(count(paragraph).ids) - 1) // TOKENS > 2
        assert mine[0].prefix + "".join(item.target for item in mine) == paragraph
        assert [a.target for a in mine[:-1]] == [b.prefix for b in mine[1:]]


def test_a_paragraph_without_a_target_is_counted(write: Write, tokenizer: Path) -> None:
    """Too short a paragraph is a bad line with its number; without a tokenizer nothing can be counted."""
    path = write("t.txt", "short one\n\n" + "0123456789" * 6)
    with pytest.raises(CandidateError, match="line 1: a paragraph of no more than 50 tokens"):
        load_input(path, split=TextSplit.TOKENS, tokenizer=tokenizer)
    found = load_input(path, split=TextSplit.TOKENS, tokenizer=tokenizer, skip_bad=True)
    assert (found.bad_count, len(found.items)) == (1, 1)
    for folder in (None, path.parent):
        with pytest.raises(UsageError, match=r"tokenizer\.json"):
            load_input(path, split=TextSplit.TOKENS, tokenizer=folder)


def test_text_without_two_sentences_holds_no_candidate(write: Write) -> None:
    """Nothing to ask for is an error, not a clean audit."""
    with pytest.raises(CandidateError, match="holds no candidate"):
        load_input(write("t.txt", "Only one."))
    with pytest.raises(CandidateError, match="not UTF-8"):
        load_input(write("t.txt", b"\xff"))


def test_a_chat_of_one_turn_is_a_candidate(write: Write) -> None:
    """What the user says is the prefix, what the assistant says the target."""
    path = write(
        "c.jsonl", '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    )
    assert load_candidates(path).items == (ScoreItem("1", "q", "a"),)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ('"q"', "not a list"),
        ('[{"role": "user", "content": "q"}]', "not one turn"),
        ('[{"role": "system"}, {"role": "user"}, {"role": "assistant"}]', "--system"),
        ('[{"role": "user"}, {"role": "assistant", "content": "a"}]', "'content' is not text"),
        ('[{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]', "'content' is empty"),
    ],
)
def test_a_chat_that_cannot_be_framed_is_a_bad_line(write: Write, messages: str, reason: str) -> None:
    """More turns, or a system message, are not cut silently."""
    with pytest.raises(CandidateError, match=reason):
        load_candidates(write("c.jsonl", f'{{"messages": {messages}}}'))


CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]


def test_the_turns_of_a_longer_chat_are_asked_for_one_by_one_or_the_last(write: Write) -> None:
    """Each after the user's turn right before it, under an id of its own; the report says so."""
    path = write("c.jsonl", json.dumps({"id": "c", "messages": CHAT}))
    every = load_candidates(path, turns=Turns.ALL)
    assert every.items == (ScoreItem("c#1", "q1", "a1"), ScoreItem("c#2", "q2", "a2"))
    assert "each after the user's turn before it" in every.generated
    assert load_candidates(path, turns=Turns.LAST).items == (ScoreItem("c", "q2", "a2"),)
    with pytest.raises(CandidateError, match="--turns"):
        load_candidates(path)
    with pytest.raises(CandidateError, match="no assistant's turn"):
        load_candidates(write("n.jsonl", json.dumps({"messages": CHAT[:2]})), turns=Turns.ALL)


@given(st.text(alphabet="ab.! \n\u00e9", max_size=300), st.integers(1, 7))
def test_text_is_cut_alike_in_blocks_of_any_size(text: str, block: int) -> None:
    """Sentences and windows do not depend on where a block ends, not even within a letter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_text(f"One. {text} Two! {'word ' * 70}", encoding="utf-8")
        for split in (TextSplit.SENTENCE, TextSplit.WINDOW):
            whole = load_input(path, split=split)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(load, "BLOCK", block)
                assert load_input(path, split=split) == whole


def test_a_byte_that_is_no_text_is_told_by_its_place(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the block that holds it starts."""
    monkeypatch.setattr(load, "BLOCK", 4)
    with pytest.raises(CandidateError, match="at byte 9"):
        load_input(write("t.txt", b"\xc3\xa9. One. \xff Two."))


@tables
def test_what_datasets_caches_is_no_part_of_a_dataset(tmp_path: Path) -> None:
    """A folder's cache files hold the rows of some computation, not the set's."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data.parquet")
    (tmp_path / "cache-0123.arrow").write_bytes(b"no table")
    assert load_input(tmp_path).items == ITEMS
