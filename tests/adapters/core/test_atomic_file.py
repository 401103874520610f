"""A file is what it was, or the whole new text, whenever its writer is killed."""

import os
from pathlib import Path

import pytest
from lorecall.adapters.core.atomic_file import moved_when_whole, sync_tree, write_whole

from tests.adapters.killing import killed_before_each_step

OLD, NEW = "old\n" * 10_000, "näw\n" * 90_000
WRITES = """
from pathlib import Path
from lorecall.adapters.core.atomic_file import moved_when_whole, write_whole
count_steps()
write_whole(Path(sys.argv[1]), "n\u00e4w\\n" * 90_000)
"""


@pytest.mark.parametrize("before", [OLD, None])
def test_a_kill_leaves_the_old_or_the_new(before: str | None, tmp_path: Path) -> None:
    """Killed before each of its steps in turn, the file is as it was, or new."""
    seen = []

    def path(step: int) -> Path:
        return tmp_path / str(step) / "report.json"

    def prepare(step: int) -> list[str]:
        path(step).parent.mkdir()
        if before is not None:
            path(step).write_text(before, encoding="utf-8")
        return [str(path(step))]

    for step in killed_before_each_step(WRITES, prepare):
        seen.append(path(step).read_text(encoding="utf-8") if path(step).exists() else None)
        assert seen[-1] in (before, NEW)
    assert [one.name for one in path(step).parent.iterdir()] == ["report.json"]
    assert (seen[0], seen[1], seen[-2], seen[-1]) == (before, before, NEW, NEW)


def test_an_error_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the error comes through, what was there stays, and no part lies beside it."""
    path = tmp_path / "report.json"
    path.write_text(OLD)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, NEW)
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]
    assert path.read_text() == OLD


def test_access_rights_and_links_stay(tmp_path: Path) -> None:
    """A private file stays private, a link stays a link, and a new file has the usual rights."""
    (tmp_path / "disk").mkdir()
    real, link, usual = tmp_path / "disk" / "real", tmp_path / "link", tmp_path / "usual"
    real.write_text("old")
    real.chmod(0o600)
    link.symlink_to(real)
    write_whole(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o600
    write_whole(usual, "new")
    (tmp_path / "plain").write_text("new")
    assert usual.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_tree_is_synced_without_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders at every depth; a link, even to nothing, is no error."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("x")
    (tmp_path / "link").symlink_to("nothing")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    sync_tree(tmp_path)
    there = (tmp_path, tmp_path / "deep", tmp_path / "deep" / "file")
    assert set(synced) == {path.stat().st_ino for path in there}


def test_what_a_block_writes_takes_the_place_only_when_it_is_whole(tmp_path: Path) -> None:
    """After an error the old file stays, and nothing beside it."""
    path, part = tmp_path / "file", tmp_path / ".file.part"
    path.write_text("old")

    def fail() -> None:
        with moved_when_whole(part, path):
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (path.read_text(), part.exists()) == ("old", False)
    with moved_when_whole(part, path):
        part.write_text("new")
    assert (path.read_text(), part.exists()) == ("new", False)
