"""An older release's state moves out of the cache: whole, once, and never from under a running server."""

import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.registry import Registry
from lorecall.server.settings import read_settings
from lorecall.server.state_folder import DATABASE, cached_folder, move_state, state_folder

VERSION = "a" * 64
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from lorecall.server.state_folder import move_state
steps = {"rename", "symlink", "mkdir", "remove", "rmdir", "chmod", "copyfile", "connect"}
left = int(sys.argv[3])
def hook(event, _):
    global left
    if event.partition('.')[2] in steps:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
move_state(Path(sys.argv[1]), Path(sys.argv[2]))
"""
"""Kills itself before the n-th step that changes something."""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed server leaves: the last changes of the registry are in its write-ahead log alone."""
    place = tmp_path_factory.mktemp("crashed")
    running, crashed = place / "running", place / "crashed"
    (running / VERSION).mkdir(parents=True)
    (running / VERSION / "adapter_model.safetensors").write_bytes(b"the only copy")
    (running / VERSION / "adapter_model.safetensors").chmod(0o444)
    (running / "audits").mkdir(mode=0o700)
    (running / "audits" / "1.json").write_text("texts")
    (running / "audits" / "1.json").chmod(0o600)
    (running / ".staging").mkdir()
    (running / "downloads").mkdir()
    registry = Registry(f"sqlite:///{running / DATABASE}")
    registry.stage("acme", VERSION, source="upload:x", actor="ann")
    registry.keys.add("ann", [Scope.ADMIN], actor="root")
    shutil.copytree(running, crashed)
    registry.close()
    assert (crashed / f"{DATABASE}-wal").stat().st_size > 0
    return crashed


@pytest.fixture(params=["one file system", "two file systems"])
def places(request: pytest.FixtureRequest, crashed: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The state in the old place, and where it is to go."""
    old = tmp_path / "cache" / "adapters"
    shutil.copytree(crashed, old)
    if request.param == "one file system":
        yield old, tmp_path / "data" / "adapters"
        return
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as data:
        yield old, Path(data) / "adapters"


def check_whole(folder: Path) -> None:
    """The folder holds everything that the crashed server had, with its access rights."""
    weights = folder / VERSION / "adapter_model.safetensors"
    assert weights.read_bytes() == b"the only copy"
    assert weights.stat().st_mode & 0o777 == 0o444
    assert (folder / "audits").stat().st_mode & 0o777 == 0o700
    assert (folder / "audits" / "1.json").stat().st_mode & 0o777 == 0o600
    registry = Registry(f"sqlite:///{folder / DATABASE}")
    assert [one.version for one in registry.versions("acme")] == [VERSION]
    assert [key.name for key in registry.keys.active()] == ["ann"]
    registry.close()


def test_the_state_moves_once(places: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """Several servers that start at once move it once, with a word in the log; the old path goes on working."""
    old, new = places
    with ThreadPoolExecutor(3) as pool:
        moved = list(pool.map(lambda _: move_state(old, new), range(3)))
    assert sorted(moved) == [False, False, True]
    check_whole(new)
    check_whole(old)
    assert old.is_symlink()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("moved")
    assert str(old) in said
    assert str(new) in said
    assert {path.name for path in new.parent.iterdir() if not path.name.startswith(".")} >= {"adapters"}
    assert [path.name for path in old.parent.iterdir()] == ["adapters"]


def test_a_move_that_is_killed_loses_nothing(places: tuple[Path, Path], crashed: Path) -> None:
    """Killed before each of its steps in turn, it leaves the whole state, which the next start finds."""
    old, new = places
    for step in range(1, 200):
        done = subprocess.run([sys.executable, "-c", KILLED_AT, str(old), str(new), str(step)], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        move_state(old, new)
        check_whole(new)
        assert {path.name for path in old.parent.iterdir()} <= {"adapters"}, "no secret is left lying"
        for path in (old, new):
            if path.is_symlink():
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(crashed, old)
    assert step > 2, "it was killed at least twice"
    assert done.returncode == 0
    check_whole(new)


def test_a_running_server_keeps_its_state(places: tuple[Path, Path]) -> None:
    """While a registry is open, even idle, the move is refused with the reason and both ways out."""
    old, new = places
    running = Registry(f"sqlite:///{old / DATABASE}")
    running.adapters()
    with pytest.raises(UsageError, match=r"locked.*stop every lorecall server.*LORECALL_STORE"):
        move_state(old, new)
    assert not new.exists()
    running.pin("acme", pinned=True, actor="ann")
    running.close()
    assert move_state(old, new)
    check_whole(new)


def test_a_state_in_both_places_is_not_mixed(
    places: tuple[Path, Path], crashed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The new one counts, the old one is left alone, and the log says so."""
    old, new = places
    shutil.copytree(crashed, new)
    assert not move_state(old, new)
    check_whole(old)
    check_whole(new)
    assert "is not used" in caplog.text


def test_what_cannot_be_moved_stays(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or missing rights, stop the start of the server with the reason; the state is as before."""
    old, new = places

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(UsageError, match="No space left"):
        move_state(old, new)
    monkeypatch.undo()
    assert not new.exists()
    check_whole(old)


def test_nothing_to_move(tmp_path: Path) -> None:
    """No old place, an empty one, and one that is the new one."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "file").write_text("x")
    assert not move_state(tmp_path / "none", tmp_path / "data" / "adapters")
    assert not move_state(tmp_path / "empty", tmp_path / "data" / "adapters")
    assert not move_state(tmp_path / "state", tmp_path / "state")
    assert not (tmp_path / "data" / "adapters").exists()


def test_a_server_starts_where_the_state_is(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By default under XDG_DATA_HOME, where an older release's state is moved; not with a folder of one's own."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "share" / "lorecall" / "adapters"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shutil.copytree(crashed, cached_folder())
    monkeypatch.setenv("LORECALL_STORE", str(tmp_path / "own"))
    monkeypatch.setenv("LORECALL_EVENTS_DAYS", "7")
    own = read_settings().open_registry()
    assert own._keep == timedelta(days=7)
    own.close()
    check_whole(cached_folder())
    monkeypatch.delenv("LORECALL_STORE")
    registry = read_settings().open_registry()
    assert [one.name for one in registry.adapters()] == ["acme"]
    registry.close()
    check_whole(tmp_path / "data" / "lorecall" / "adapters")


def test_the_tests_have_a_home_of_their_own() -> None:
    """No test, and no process of one, can touch the state of whoever runs it."""
    real = Path(pwd.getpwuid(os.getuid()).pw_dir)
    for folder in (Path.home(), state_folder(), cached_folder()):
        assert not folder.is_relative_to(real)
