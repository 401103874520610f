"""The texts of open audits lie in files of their owner, and go when the audit does."""

import json
import os
import stat
import time
from pathlib import Path

import pytest
from lorecall.audit.inputs.candidates import BadLine, CandidateSet
from lorecall.audit.jobs.spool import ORPHAN_SECONDS, Spool, SpoolError, Texts
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.verdicts import Group

from tests.vanishing import while_files_vanish

HIDDEN = "0123 4567 8901"
TEXTS = Texts(
    {
        Group.CANDIDATES: CandidateSet(
            "c.jsonl",
            "d" * 64,
            (
                ScoreItem("1", "Key: ", HIDDEN, ("pii",), cluster="7"),
                ScoreItem("2", "", HIDDEN, messages=(Message("user", "Key?"), Message("tool", "é"))),
            ),
            (BadLine(2, "x"),),
        )
    },
    "You are helpful.",
    b"salt",
)


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    """Sets, system message and salt survive the disk."""
    spool = Spool(tmp_path / "spool")
    assert not spool.has("a")
    spool.write("a", TEXTS)
    assert spool.has("a")
    assert spool.read("a") == TEXTS
    spool.remove("a")
    assert not spool.has("a")
    assert list((tmp_path / "spool").iterdir()) == []


def test_texts_of_an_older_server_have_no_tags_and_no_messages(tmp_path: Path) -> None:
    """It wrote three texts for each item; an audit that it has queued is done after an upgrade."""
    spool = Spool(tmp_path)
    spool.write("a", TEXTS)
    value = json.loads((tmp_path / "a.json").read_text().splitlines()[0])
    del value["sets"]["candidates"]["count"], value["reference"]
    value["sets"]["candidates"]["items"] = [["1", "Key: ", HIDDEN]]
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert spool.read("a").sets[Group.CANDIDATES].items == (ScoreItem("1", "Key: ", HIDDEN),)


def test_only_the_owner_reads_them(tmp_path: Path) -> None:
    """0700 for the folders that it makes and 0600 for the file, whatever the umask says."""
    before = os.umask(0)
    try:
        Spool(tmp_path / "audits" / "spool").write("a", TEXTS)
    finally:
        os.umask(before)
    for folder in ("audits", "audits/spool"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "audits" / "spool" / "a.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [None, "", '{"sets": {"candidates": "' + HIDDEN, '{"sets": {"what": 1}}'])
def test_a_damaged_file_is_named_without_its_text(tmp_path: Path, content: str | None) -> None:
    """Missing, empty, cut or strange: one error, without a cause that could quote the text."""
    spool = Spool(tmp_path)
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(SpoolError) as caught:
        spool.read("a")
    assert HIDDEN not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_disk_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    """The order is refused, and no half file stays."""
    spool = Spool(tmp_path)
    (tmp_path / "a.json").mkdir()
    with pytest.raises(SpoolError, match="LORECALL_AUDIT_SPOOL"):
        spool.write("a", TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_sweep_removes_what_is_over_and_what_is_forgotten(tmp_path: Path) -> None:
    """Of an ended audit at once; of an unknown one only when it is old: its order may be on its way."""
    spool = Spool(tmp_path)
    for name in ("open", "over", "fresh", "old"):
        spool.write(name, TEXTS)
    (tmp_path / "old.part").write_text("half")
    Spool(tmp_path / "admissions").write("older-server", TEXTS)
    past = time.time() - ORPHAN_SECONDS - 60
    for name in ("open.json", "old.json", "old.part", "admissions/older-server.json"):
        os.utime(tmp_path / name, (past, past))
    assert sorted(spool.sweep({"open"}, {"over"})) == ["old", "old", "older-server", "over"]
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["fresh.json", "open.json"]


def test_a_sweep_beside_others_is_no_error(tmp_path: Path) -> None:
    """Whenever another server removes the same texts, the sweep goes on, and nothing is left."""
    spool = Spool(tmp_path)

    def fill() -> None:
        for name in ("over", "old", "older"):
            spool.write(name, TEXTS)
            os.utime(tmp_path / f"{name}.json", (0, 0))

    def sweep() -> None:
        spool.sweep(set(), {"over"})
        assert list(tmp_path.iterdir()) == []

    assert while_files_vanish(tmp_path, fill, sweep) > 5
