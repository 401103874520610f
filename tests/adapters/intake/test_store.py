"""The content-addressed store keeps exact, immutable copies and survives crashes."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.core.refusals import FileRefusedError, Reason
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.digest import version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

from tests.adapters.intake.conftest import staged
from tests.vanishing import while_files_vanish


def test_copy_is_exact_and_leaves_the_rest_behind(store: Store, source: Path) -> None:
    """What the digest is of arrives byte for byte; nothing else of the directory does."""
    stored = store.ingest(source)
    assert sorted(p.name for p in stored.path.iterdir()) == sorted([CONFIG_FILE, WEIGHTS_FILE])
    for file in stored.path.iterdir():
        assert file.read_bytes() == (source / file.name).read_bytes()
        assert file.stat().st_mode & 0o777 == 0o444
    assert stored.version == version_digest((source / CONFIG_FILE).read_bytes(), source / WEIGHTS_FILE)
    assert stored.path == store.root / stored.version
    assert staged(store) == []


def test_same_bytes_are_one_version(store: Store, source: Path) -> None:
    """Ingesting the same bytes again changes nothing and copies nothing."""
    first = store.ingest(source)
    inode = first.path.stat().st_ino
    assert store.ingest(source) == first
    assert first.path.stat().st_ino == inode
    assert store.versions() == (first.version,)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_one_changed_byte_is_another_version(store: Store, source: Path, name: str) -> None:
    """Configuration and weights both count for the version."""
    first = store.ingest(source)
    content = bytearray((source / name).read_bytes())
    content[-1] ^= 1
    (source / name).write_bytes(content)
    second = store.ingest(source)
    assert second.version != first.version
    assert set(store.versions()) == {first.version, second.version}


def test_verify_finds_damage_and_ingest_repairs_it(store: Store, source: Path) -> None:
    """A flipped bit in the stored copy is found; ingesting the source again replaces the copy."""
    stored = store.ingest(source)
    assert store.verify(stored.version) == stored
    weights = stored.path / WEIGHTS_FILE
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[1234] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FileRefusedError) as caught:
        store.verify(stored.version)
    assert caught.value.reason is Reason.CORRUPT_STORE
    assert store.ingest(source).version == stored.version
    store.verify(stored.version)


def test_lost_file_is_damage(store: Store, source: Path) -> None:
    """A stored version that lost its weights does not verify."""
    stored = store.ingest(source)
    (stored.path / WEIGHTS_FILE).unlink()
    with pytest.raises(FileRefusedError):
        store.verify(stored.version)


@pytest.mark.parametrize("name", ["../outside", "0" * 63, "A" * 64, "", ".staging"])
def test_only_digests_are_versions(store: Store, name: str) -> None:
    """A version that is no digest, or a path, is not found."""
    with pytest.raises(AdapterNotFoundError):
        store.get(name)


def test_removed_version_is_gone_but_open_files_stay(store: Store, source: Path) -> None:
    """Removing a version does not pull the bytes from under a reader."""
    stored = store.ingest(source)
    with (stored.path / WEIGHTS_FILE).open("rb") as reader:
        store.remove(stored.version)
        assert reader.read() == (source / WEIGHTS_FILE).read_bytes()
    assert store.versions() == ()
    assert staged(store) == []
    with pytest.raises(AdapterNotFoundError):
        store.remove(stored.version)


def test_concurrent_ingests_agree(store: Store, source: Path) -> None:
    """Eight threads that bring the same adapter at once all get the one version."""
    with ThreadPoolExecutor(8) as pool:
        stored = set(pool.map(lambda _: store.ingest(source), range(8)))
    assert len(stored) == 1
    assert store.versions() == (stored.pop().version,)
    assert staged(store) == []


def test_killed_copy_leaves_nothing_visible_and_is_swept(store: Store, source: Path) -> None:
    """A process killed in the middle of a copy leaves no version; the next start deletes its bytes."""
    program = (
        "import sys, os; from pathlib import Path; from lorecall.adapters.intake import store\n"
        "def stall(source):\n"
        "    yield b'x' * 1000; print('copying', flush=True); sys.stdin.read()\n"
        "store.chunks_of = stall\n"
        "store.Store(Path(sys.argv[1])).ingest(Path(sys.argv[2]))\n"
    )
    (source / WEIGHTS_FILE).write_bytes(b"y" * 5000)
    command = [sys.executable, "-c", program, str(store.root), str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copying\n"
        assert store.delete_leftovers() == 0, "a copy in progress must be left alone"
        assert len(staged(store)) == 1
        process.kill()
    assert store.versions() == ()
    Store(store.root)
    assert staged(store) == []


def test_a_version_is_on_the_disk_before_it_has_its_name(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folder are synced while no name shows them; for one that is there, no disk is waited for."""
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def note(handle: int) -> None:
        sync(handle)
        synced.append((Path(f"/proc/self/fd/{handle}").resolve().name, bool(store.versions())))

    monkeypatch.setattr(os, "fsync", note)
    store.ingest(source)
    assert {name for name, named in synced if not named} > {CONFIG_FILE, WEIGHTS_FILE}
    assert synced[-1] == (store.root.name, True)
    synced.clear()
    store.ingest(source)
    assert synced == []


def test_link_inside_the_directory_is_followed(store: Store, source: Path) -> None:
    """A link to a sibling file is harmless and is copied as the file."""
    (source / WEIGHTS_FILE).rename(source / "blob")
    (source / WEIGHTS_FILE).symlink_to("blob")
    stored = store.ingest(source)
    assert not (stored.path / WEIGHTS_FILE).is_symlink()
    assert (stored.path / WEIGHTS_FILE).read_bytes() == (source / "blob").read_bytes()


def test_sweeping_beside_others_is_no_error(store: Store) -> None:
    """Whenever another process deletes the same leftovers, the sweep goes on, and nothing is left."""

    def fill() -> None:
        for name in ("one", "two"):
            (store.root / ".staging" / name).mkdir()
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                (store.root / ".staging" / name / file).write_text("x")

    def start() -> None:
        Store(store.root)
        assert staged(store) == []

    assert while_files_vanish(store.root / ".staging", fill, start) > 10


def test_sweeping_while_copying_breaks_no_copy(store: Store, source: Path) -> None:
    """Deleting left-overs all the time never deletes the directory of a copy in progress."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            store.delete_leftovers()

    (source / WEIGHTS_FILE).write_bytes(b"w" * 1000)
    with ThreadPoolExecutor(1) as pool:
        sweeper = pool.submit(sweep)
        try:
            for number in range(100):
                (source / CONFIG_FILE).write_text(f'{{"r": {number}}}')
                store.ingest(source)
        finally:
            done.set()
        sweeper.result()
    assert len(store.versions()) == 100


def test_a_store_of_another_user_is_read(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that may not mark a version as used verifies and loads it nevertheless."""
    stored = store.ingest(source)

    def refuse(*_: object, **_more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert store.verify(stored.version) == stored


def test_what_is_in_use_is_not_deleted(store: Store, source: Path) -> None:
    """While another process marks a version as used the collector leaves it alone."""
    stored = store.ingest(source)
    handle = os.open(stored.path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert not store.remove_unused(stored.version, time.time() + 1)
    os.close(handle)
    assert store.remove_unused(stored.version, time.time() + 1)
    with pytest.raises(AdapterNotFoundError):
        store.verify(stored.version)
