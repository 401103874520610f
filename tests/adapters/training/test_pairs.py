"""Training files are read by any of three names; bad lines are listed by number and never quoted."""

import hashlib
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.adapters.training.pairs import Pair, read_pairs


def write(path: Path, *lines: str | bytes) -> Path:
    file = path / "data.jsonl"
    file.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return file


def test_all_three_spellings_are_one(tmp_path: Path) -> None:
    """prefix/target, query/target and prompt/completion mean the same; a missing id is the line's number."""
    file = write(
        tmp_path,
        '{"id": "a", "prefix": "x", "target": " 1"}',
        "",
        '{"id": 7, "query": "y:", "target": "2", "target_len": 1}',
        '{"prompt": "z", "completion": " 3"}',
    )
    dataset = read_pairs(file)
    assert dataset.pairs == (Pair("a", "x", " 1"), Pair("7", "y:", "2"), Pair("4", "z", " 3"))
    assert dataset.digest == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{", "not JSON"), ("[1]", "not a JSON object but list"),
     ('{"prefix": "SECRET"}', 'no "prefix" and "target"'),
     ('{"prefix": "SECRET", "target": 5}', "must be texts"), ('{"prefix": "SECRET", "target": " "}', "is empty"),
     (b'{"prefix": "\xff", "target": "SECRET"}', "not UTF-8")],
)  # fmt: skip
def test_a_bad_line_is_named_but_not_shown(tmp_path: Path, line: str | bytes, reason: str) -> None:
    """The message has the line's number and the reason; its text may be a secret and stays out."""
    with pytest.raises(CandidateError, match=f"line 2: .*{reason}") as caught:
        read_pairs(write(tmp_path, '{"prefix": "x", "target": "y"}', line))
    assert "SECRET" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    """Ten are listed, the rest is a number."""
    with pytest.raises(CandidateError, match=r"12 bad line\(s\)") as caught:
        read_pairs(write(tmp_path, *["{"] * 12))
    assert "line 10:" in caught.value.message
    assert "line 11:" not in caught.value.message
    assert "and 2 more" in caught.value.message


def test_missing_and_empty_files_are_errors(tmp_path: Path) -> None:
    """Neither passes for a set without bad lines."""
    with pytest.raises(CandidateError, match="no training data"):
        read_pairs(tmp_path / "nothing.jsonl")
    with pytest.raises(CandidateError, match="holds no training pairs"):
        read_pairs(write(tmp_path, "", " "))
