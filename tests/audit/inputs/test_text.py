"""Candidates from plain text."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.inputs import text as plain_text
from lorecall.audit.inputs.candidates import TextSplit
from lorecall.audit.inputs.load import load_input
from lorecall.audit.inputs.text import TOKENS
from tokenizers import Tokenizer

from tests.tiny import build_tokenizer

Write = Callable[[str, str | bytes], Path]


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


@given(st.text(alphabet="ab.! \n\u00e9", max_size=300), st.integers(1, 7))
def test_text_is_cut_alike_in_blocks_of_any_size(text: str, block: int) -> None:
    """Sentences and windows do not depend on where a block ends, not even within a letter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_text(f"One. {text} Two! {'word ' * 70}", encoding="utf-8")
        for split in (TextSplit.SENTENCE, TextSplit.WINDOW):
            whole = load_input(path, split=split)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(plain_text, "BLOCK", block)
                assert load_input(path, split=split) == whole


def test_a_byte_that_is_no_text_is_told_by_its_place(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the block that holds it starts."""
    monkeypatch.setattr(plain_text, "BLOCK", 4)
    with pytest.raises(CandidateError, match="at byte 9"):
        load_input(write("t.txt", b"\xc3\xa9. One. \xff Two."))
