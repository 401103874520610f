"""A search goes through the file once, in bounded parts, and resumes after a kill with nothing lost or twice."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.discovery.parts import Parts
from lorecall.audit.discovery.scan import ScanSettings, scan
from lorecall.audit.discovery.spans import Span, Tag
from lorecall.audit.training_data.rows import open_training_data

from tests.audit.discovery.conftest import OpenChats

ROWS = 23
SETTINGS = ScanSettings(part_rows=8)
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from tests.audit.discovery.test_scan import search
left = 0
def step(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def synced(handle, sync=os.fsync):
    step()
    sync(handle)
os.fsync = synced
sys.addaudithook(lambda event, args: step() if event == "os.rename" else None)
for number in map(int, sys.argv[3:]):
    child = os.fork()
    if child == 0:
        left = number
        search(Path(sys.argv[1]) / str(number), sys.argv[2])
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""
"""Searches once for each number n, and kills each search before the n-th file that appears or is waited for."""
STEPS = (2, 5, 9, 400)


def every_number(text: str) -> list[Span]:
    """Find the last word."""
    return [Span(text.rindex(" ") + 1, len(text), (Tag.NAME_NUMBER,))]


def search(folder: Path, data: str) -> list[str]:
    """Search a training file; return the ids of the candidates."""
    parts = Parts(folder, {"data": 1})
    scan(open_training_data(data), every_number, parts, SETTINGS)
    return [row["id"] for row in parts.rows(["id"])]


def write_rows(path: Path) -> str:
    """Write the rows of the tests."""
    path.write_text("".join(json.dumps({"text": f"number is {n}"}) + "\n" for n in range(1, ROWS + 1)))
    return str(path)


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """Killed at a step and started again, it finds what it would have found."""
    data = write_rows(tmp_path / "rows.jsonl")
    whole = [f"{n}@0.10" for n in range(1, ROWS + 1)]
    assert search(tmp_path / "unhurt", data) == whole
    command = [sys.executable, "-c", KILLED_AT, str(tmp_path), data, *map(str, STEPS)]
    paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": paths})
    assert done.stdout.split() == [b"9"] * (len(STEPS) - 1) + [b"0"]
    for step in STEPS:
        parts = Parts(tmp_path / str(step), {"data": 1})
        assert [row["id"] for row in parts.rows(["id"])] == whole[: parts.state.row]
        assert search(tmp_path / str(step), data) == whole


def test_a_finished_search_reads_nothing_again(tmp_path: Path) -> None:
    """Its digest says that it is complete."""
    data = write_rows(tmp_path / "rows.jsonl")
    search(tmp_path / "parts", data)
    rows = open_training_data(data)
    parts = Parts(tmp_path / "parts", {"data": 1})
    scan(rows, every_number, parts, SETTINGS)
    assert rows.counts.rows == 0
    assert len(parts.state.parts) == 3
    assert parts.state.rows == ROWS


def test_another_search_does_not_take_the_parts_over(tmp_path: Path) -> None:
    """The message names what differs."""
    Parts(tmp_path / "parts", {"tags": ["card"], "data": 1}).save()
    with pytest.raises(UsageError, match="other tags"):
        Parts(tmp_path / "parts", {"tags": ["iban"], "data": 1})


def test_the_blank_belongs_to_the_target_and_shorter_prefixes_are_added(
    chats: OpenChats, tmp_path: Path
) -> None:
    """The place in the row is the span's own; a prefix that is short already has no shorter one."""
    data = chats([[("user", "code?"), ("assistant", "The code is 7")], [("user", "?"), ("assistant", "x 8")]])
    parts = Parts(tmp_path / "parts", {})
    scan(data, every_number, parts, ScanSettings(shorter=(4,)))
    rows = list(
        parts.rows(["id", "prefix", "target", "messages", "start", "end", "turn", "row", "shortened"])
    )
    assert [(row["id"], row["prefix"], row["target"], row["shortened"]) for row in rows] == [
        ("1@1.12", "The code is", " 7", 0),
        ("1@1.12~4", "e is", " 7", 4),
        ("2@1.2", "x", " 8", 0),
        ("2@1.2~4", "x", " 8", 4),
    ]
    assert [len(row["messages"]) for row in rows] == [1, 0, 1, 0]
    assert {name: rows[0][name] for name in ("row", "turn", "start", "end")} == {
        "row": 1, "turn": 1, "start": 12, "end": 13,
    }  # fmt: skip


def test_what_has_nothing_before_it_is_counted(tmp_path: Path) -> None:
    """A text that begins with its span gives the model nothing to continue."""
    (tmp_path / "rows.jsonl").write_text('{"text": "12"}\n{"text": "a 13"}\n')
    parts = Parts(tmp_path / "parts", {})
    data = open_training_data(str(tmp_path / "rows.jsonl"))
    scan(data, lambda text: [Span(text.find("1"), len(text), (Tag.CARD,))], parts, ScanSettings())
    assert parts.state.counts["nothing_before"] == 1
    assert sum(parts.state.parts) == 1


ODD = {
    "byte_order_marks": 1, "crlf": 2, "not_nfc": 1, "lone_surrogates": 1, "zero_width": 1, "duplicate_ids": 2,
    "empty_turns": 2, "over_long": 1, "bad": 2, "empty": 1, "bad_ids": 1, "openings": 1,
}  # fmt: skip
"""How often each oddity stands in the hostile file."""


def hostile_file(path: Path) -> str:
    """Write a file of chats that holds every oddity, with a plain row after each."""
    asked, plain = {"role": "user", "content": "Which number?"}, "number is 7"

    def chat(*texts: str, **more: object) -> str:
        answers = [{"role": "assistant", "content": text} for text in texts]
        return json.dumps({"messages": [asked, *answers], **more}, ensure_ascii=True)

    odd = [
        chat("one\r\nnumber is 1", id="same"), chat("two\r\nnumber is 2"),
        chat("cafe\u0301 number is 3", id="same"),
        chat("\ud800 number is 4"), chat("zero\u200bwidth number is 5", id="same"), chat("", "number is 6"),
        chat("x" * 1_000_001), "{no json", json.dumps({"messages": 3}), chat(""), chat(plain, id="x" * 5000),
        json.dumps({"messages": [{"role": "assistant", "content": plain}]}),
    ]  # fmt: skip
    path.write_text("\ufeff" + "".join(f"{row}\n{chat(plain)}\n" for row in odd))
    return str(path)


@pytest.mark.parametrize("stop", [None, 1, 4, 7, 13])
def test_what_is_odd_is_counted_once_whenever_the_search_was_stopped(
    tmp_path: Path, stop: int | None
) -> None:
    """Rows that are left out, and those that are taken as they are; a stop in between counts none twice."""
    data = hostile_file(tmp_path / "rows.jsonl")
    left = stop or 0

    def stopping(text: str) -> list[Span]:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return every_number(text) if " " in text else []

    found: list[str] = []
    for _ in range(2):
        parts = Parts(tmp_path / "parts", {"data": 1})
        with suppress(KeyboardInterrupt):
            scan(open_training_data(data), stopping, parts, ScanSettings(part_rows=3))
            found = [row["id"] for row in parts.rows(["id"])]
            break
    assert len(found) == len(set(found)) == 19
    counted = {name: n for name, n in parts.state.counts.items() if n}
    across = {"duplicate_ids"} if stop else set()  # an id on both sides of a stop is not noticed
    assert {n: c for n, c in counted.items() if n not in across} == {
        n: c for n, c in ODD.items() if n not in across
    }
