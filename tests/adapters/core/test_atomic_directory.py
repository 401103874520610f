"""Directories appear whole or not at all; a digest is of names, order and contents."""

from pathlib import Path

import pytest
from lorecall.adapters.core.atomic_directory import digest_files, new_directory


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
