"""Directories appear whole or not at all; a digest is of names, order and contents."""

import os
from pathlib import Path

import pytest
from lorecall.adapters.core.atomic_directory import digest_files, new_directory
from lorecall.adapters.core.errors import UsageError

from tests.adapters.killing import killed_before_each_step


def names_in(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def test_a_new_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    """Nothing is at the final path while the block runs; afterwards exactly the written files are."""
    out = tmp_path / "parent" / "model"
    with new_directory(out) as work:
        (work / "file").write_text("x")
        assert not out.exists()
    assert names_in(out) == ["file"]
    assert names_in(out.parent) == ["model"]


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    """An exception removes the temporary directory and leaves what was there before untouched."""
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").write_text("old")

    def build() -> None:
        with new_directory(out) as work:
            (work / "new").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        build()
    assert names_in(tmp_path) == ["model"]
    assert names_in(out) == ["old"]


def test_a_place_where_none_can_be_made_is_named(tmp_path: Path) -> None:
    """A file, and a name below a file: both are the caller's to change, and stay as they are."""
    file = tmp_path / "file"
    file.write_text("mine")
    for out, words in ((file, "is a file"), (file / "model", "cannot be made")):
        with pytest.raises(UsageError, match=words), new_directory(out):
            pytest.fail("there is no directory to fill")
    assert file.read_text() == "mine"
    assert names_in(tmp_path) == ["file"]


def test_an_existing_directory_is_replaced_whole(tmp_path: Path) -> None:
    """No file of the old directory survives beside the new ones."""
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").write_text("old")
    with new_directory(out) as work:
        (work / "new").write_text("new")
    assert names_in(out) == ["new"]
    assert names_in(tmp_path) == ["model"]


def test_what_was_made_can_be_read_by_others(tmp_path: Path) -> None:
    """Directory and files are readable for a server that runs as another user."""
    out = tmp_path / "model"
    with new_directory(out) as work:
        file = work / "weights"
        file.write_text("x")
        file.chmod(0o600)
    assert out.stat().st_mode & 0o777 == 0o755
    assert (out / "weights").stat().st_mode & 0o777 == 0o644


def test_the_digest_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    """The order in which files are given does not matter; a renamed or changed file does."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    digest = digest_files(tmp_path, [a, b])
    assert digest == digest_files(tmp_path, [b, a])
    assert digest != digest_files(tmp_path, [a])
    a.write_text("2")
    b.write_text("1")
    assert digest != digest_files(tmp_path, [a, b])


MAKES = """
from pathlib import Path
from lorecall.adapters.core import atomic_directory
count_steps()
exchange = atomic_directory._exchange
atomic_directory._exchange = stepping(exchange if sys.argv[2] == "exchange" else lambda *_: False)
with atomic_directory.new_directory(Path(sys.argv[1])) as work:
    for name in ("a", "b"):
        (work / name).write_text("new")
"""


def content(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.iterdir()}


@pytest.mark.parametrize("how", ["new", "exchange", "two renames"])
def test_a_kill_leaves_the_old_or_the_new(how: str, tmp_path: Path) -> None:
    """Killed before each of its steps in turn, the directory is as it was or new; never partly, never neither."""
    old, new = {"a": "old", "c": "old"}, {"a": "new", "b": "new"}
    seen, gap = [], 0

    def prepare(step: int) -> list[str]:
        out = tmp_path / str(step) / "model"
        out.parent.mkdir()
        if how != "new":
            out.mkdir()
            for name, text in old.items():
                (out / name).write_text(text)
        return [str(out), how]

    for step in killed_before_each_step(MAKES, prepare):
        out = tmp_path / str(step) / "model"
        gap += how != "new" and not out.exists()
        if how == "two renames":
            with pytest.raises(RuntimeError, match="stop"), new_directory(out):
                raise RuntimeError("stop")  # the next call finds the old one, even if it fails itself
        found = content(out) if how != "new" or out.exists() else None
        assert found in ((None, new) if how == "new" else (old, new))
        seen.append(found)
    assert seen[-1] == new
    assert seen[-2] == new, "it was killed after the exchange"
    assert seen[0] != new
    assert gap == (how == "two renames"), "between its two renames, and only there, it is away"
    assert names_in(out.parent) == ["model"]


def test_all_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is synced while the old directory is in place, and the place itself afterwards."""
    out = tmp_path / "model"
    out.mkdir()
    synced: list[tuple[Path, bool]] = []
    sync = os.fsync

    def recorded(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((path.relative_to(tmp_path), (out / "deep" / "file").exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    with new_directory(out) as work:
        (work / "deep").mkdir()
        (work / "deep" / "file").write_text("new")
    inside = {(Path(work.name, *rest), False) for rest in ((), ("deep",), ("deep", "file"))}
    assert set(synced[:-1]) == inside
    assert synced[-1] == (Path(), True)


def test_what_a_link_names_is_replaced(tmp_path: Path) -> None:
    """A link to a directory stays a link; the directory behind it is new."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("old")
    link = tmp_path / "model"
    link.symlink_to("disk")
    with new_directory(link) as work:
        (work / "new").write_text("new")
    assert link.is_symlink()
    assert content(link) == {"new": "new"}
    assert names_in(tmp_path) == ["disk", "model"]
