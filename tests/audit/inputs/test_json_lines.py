"""Candidate files: what is read, and why a line cannot be."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.scorer import ScoreItem

Write = Callable[[str, str | bytes], Path]
GOOD = '{"id": "a", "prefix": "p", "target": "t"}'


def test_the_three_pairs_of_field_names_are_read(write: Write) -> None:
    """prefix/target, query/target and prompt/completion mean the same; other fields are ignored."""
    path = write(
        "c.jsonl",
        f'{GOOD}\n{{"id": 7, "query": "Jerry Becerra:", "target": "555"}}\n\n'
        '{"prompt": "q", "completion": " a", "source": "x"}\n',
    )
    loaded = load_json_lines(path)
    assert loaded.items == (
        ScoreItem("a", "p", "t"),
        ScoreItem("7", "Jerry Becerra:", "555"),
        ScoreItem("4", "q", " a"),
    )
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object but list"),
        (b'{"prefix": "p"}', "none of the field pairs"),
        (b'{"prefix": "p", "target": ""}', "'target' is empty"),
        (b'{"prefix": "p", "target": "  "}', "'target' is empty"),
        (b'{"prefix": 5, "target": "t"}', "'prefix' is not text but int"),
        (b'{"prefix": "p", "prefix": "q", "target": "t"}', "the key 'prefix' stands twice"),
        (b'{"id": true, "prefix": "p", "target": "t"}', "'id' is neither"),
        (b'{"id": "a", "prefix": "p", "target": "t"}', "has the same id as line 1"),
        (b'{"id": "a\\n", "prefix": "p", "target": "t"}', "cannot be printed"),
        (b'{"sk-12345": 1, "sk-12345": 2}', "a key stands twice"),
        (b'{"prefix": "p", "target": "\\ud800"}', "lone surrogate"),
        (b'{"prefix": "\xff", "target": "t"}', "not UTF-8 at byte 12"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b', "prefix": "p", "target": "t"}', "number is too long"),
    ],
)
def test_a_bad_line_is_an_error_with_its_number_and_reason(write: Write, line: bytes, reason: str) -> None:
    """The error has exit code 2, and --skip-bad turns it into a count; no line is dropped silently."""
    path = write("c.jsonl", GOOD.encode() + b"\n" + line + b"\n")
    with pytest.raises(CandidateError, match=r"1 bad line:\n  line 2: ") as caught:
        load_json_lines(path)
    assert reason in caught.value.message
    assert caught.value.exit_code == 2
    loaded = load_json_lines(path, skip_bad=True)
    assert len(loaded.items) == 1
    assert [bad.line for bad in loaded.bad] == [2]


def test_all_bad_lines_are_counted_and_the_first_ten_named(write: Write) -> None:
    """Twelve bad lines: ten with their numbers, and two more."""
    path = write("c.jsonl", GOOD + "\n" + "nonsense with 5550100\n" * 12)
    with pytest.raises(CandidateError, match="12 bad lines") as caught:
        load_json_lines(path)
    assert "line 11:" in caught.value.message
    assert "line 12:" not in caught.value.message
    assert "and 2 more" in caught.value.message
    assert "5550100" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    """The path is named."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(CandidateError, match=path.name):
            load_json_lines(path)


def test_a_file_without_candidates_is_an_error(write: Write) -> None:
    """Empty, blank and all-bad files cannot give a clean audit."""
    for content in ("", "\n\n"):
        with pytest.raises(CandidateError, match="holds no candidate"):
            load_json_lines(write("c.jsonl", content))
    with pytest.raises(CandidateError, match="1 bad lines"):
        load_json_lines(write("c.jsonl", "{"), skip_bad=True)


def test_a_byte_order_mark_is_passed_over(write: Write) -> None:
    """A file from an editor that writes one is read."""
    assert load_json_lines(write("c.jsonl", b"\xef\xbb\xbf" + GOOD.encode())).items[0].id == "a"
