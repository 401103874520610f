"""Nothing outside a root is opened, whatever is swapped meanwhile."""

import os
from pathlib import Path

import pytest
from lorecall.adapters.core.beneath import Folder, LeavesRootError, identities


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder `a/b`, and a secret outside it."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/file").write_text("inside")
    (tmp_path / "root/top").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    return tmp_path / "root"


def read(folder: Folder, name: str) -> str:
    with os.fdopen(folder.open(name)) as file:
        return file.read()


def test_links_that_stay_inside_are_followed(root: Path) -> None:
    """Relative ones, upwards ones, absolute ones, chains of them and folders."""
    folder = Folder(root / "a/b", (root,))
    (root / "a/b/up").symlink_to("../../top")
    (root / "a/b/absolute").symlink_to(root / "top")
    (root / "a/b/chain").symlink_to("./up")
    (root / "a/back").symlink_to("..")
    (root / "a/b/through").symlink_to("../back/a/./b//file")
    for name in ("file", "up", "absolute", "chain", "through", "../../top", "../b/file"):
        assert read(folder, name) == "inside", name
    assert folder.names() == ["absolute", "chain", "file", "through", "up"]


@pytest.mark.parametrize(
    "target",
    ["../../../secret", "/{out}/secret", "{root}/../secret", "../../../root/../secret",
     "/proc/self/cwd"],
)  # fmt: skip
def test_links_that_lead_out_are_not_followed(root: Path, target: str) -> None:
    """Neither by dots, nor by an absolute path, nor by the root's own name."""
    out = str(root.parent).lstrip("/")
    (root / "a/b/link").symlink_to(target.format(out=out, root=root))
    (root / "a/folder").symlink_to("../..")
    folder = Folder(root / "a/b", (root,))
    for name in ("link", "../folder/secret", "../../../secret"):
        with pytest.raises(LeavesRootError):
            folder.open(name)


def test_an_inner_root_is_reached_from_the_outer_one(root: Path, tmp_path: Path) -> None:
    """A link cannot lead from the inner root to its neighbours; nor can the inner root become a link out."""
    (root / "a/b/link").symlink_to("../../top")
    with pytest.raises(LeavesRootError):
        Folder(root / "a/b", (root, root / "a")).open("link")
    (root / "a").rename(root / "aside")
    (root / "a").symlink_to(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").write_text("outside")
    with pytest.raises(LeavesRootError):
        Folder(root / "a/b", (root, root / "a")).open("file")


def test_barred_folders_are_not_entered_by_any_name(root: Path) -> None:
    """Not by their path, and not through a link in the root."""
    (root / "link").symlink_to("a/b")
    folder = Folder(root, (root,), identities([root / "a/b", root / "nowhere"]))
    for name in ("a/b/file", "link/file", "a/b"):
        with pytest.raises(LeavesRootError):
            folder.open(name)
    assert read(folder, "top") == "inside"


def test_what_cannot_be_opened_is_an_error(root: Path) -> None:
    """A link to itself, a file as a folder, and what is not there; no file descriptor is left open."""
    (root / "loop").symlink_to("loop")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name, error in (("loop", OSError), ("top/file", NotADirectoryError), ("none", FileNotFoundError)):
        with pytest.raises(error):
            Folder(root, (root,)).open(name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="needs O_PATH")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_cannot_be_listed_are_passed_through(root: Path) -> None:
    """As everywhere, the right to pass through suffices."""
    (root / "a").chmod(0o111)
    assert read(Folder(root / "a/b", (root,)), "file") == "inside"
