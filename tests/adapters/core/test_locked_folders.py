"""Folders of living processes stay, those of dead ones go."""

import os
import subprocess
import sys
from pathlib import Path

from lorecall.adapters.core.locked_folders import delete_unlocked, lock_folder, new_locked

MAKE_AND_DIE = (
    "import os, signal, sys; from pathlib import Path; "
    "from lorecall.adapters.core.locked_folders import new_locked; "
    "new_locked(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_only_folders_of_dead_processes_are_deleted(tmp_path: Path) -> None:
    """A killed process holds no lock any more; this one does until it closes the handle."""
    subprocess.run([sys.executable, "-c", MAKE_AND_DIE, str(tmp_path)], check=False)
    ours, handle = new_locked(tmp_path, "ours-", 0o700)
    assert ours.name.startswith("ours-")
    assert ours.stat().st_mode & 0o777 == 0o700
    assert len(list(tmp_path.iterdir())) == 2
    assert delete_unlocked(tmp_path.iterdir()) == 1
    assert list(tmp_path.iterdir()) == [ours]
    os.close(handle)
    assert delete_unlocked(tmp_path.iterdir()) == 1


def test_neither_links_nor_files_are_followed_or_deleted(tmp_path: Path) -> None:
    """A link put in the place of a folder would lead the deletion elsewhere."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    (elsewhere / "kept").mkdir(parents=True)
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    (folder / "file").write_text("kept")
    assert lock_folder(folder / "gone") is None
    assert delete_unlocked(folder.iterdir()) == 0
    assert (elsewhere / "kept").is_dir()
    assert len(list(folder.iterdir())) == 2
