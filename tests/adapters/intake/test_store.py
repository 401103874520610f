"""The content-addressed store keeps exact, immutable copies and survives crashes."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.core.refusals import FileRefusedError, Reason, StoreFullError
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.digest import version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE

from tests.vanishing import while_files_vanish

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / CONFIG_FILE).write_bytes(b'{"r": 4}')
    (directory / WEIGHTS_FILE).write_bytes(os.urandom(3_000_000))
    (directory / TRAINING_FILE).write_bytes(b'{"seed": 1}')
    (directory / "optimizer.pt").write_bytes(b"never copied")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def staged(store: Store) -> list[Path]:
    return list((store.root / ".staging").iterdir())


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


def test_failed_copy_leaves_nothing(store: Store, source: Path) -> None:
    """A refusal in the middle of a copy leaves no files."""
    (source / WEIGHTS_FILE).unlink()
    with pytest.raises(FileRefusedError) as caught:
        store.ingest(source)
    assert caught.value.reason is Reason.MISSING_FILE
    assert (store.versions(), staged(store)) == ((), [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_fills_up_is_reported(
    store: Store, source: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk turns out to be full in the middle of a copy, the error says so and nothing is left."""

    def full(_: int) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFullError, match="is full"):
        store.ingest(source)
    assert (store.versions(), staged(store)) == ((), [])


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


def test_size_limit(tmp_path: Path, source: Path) -> None:
    """An adapter over the size limit is refused with the limit named."""
    with pytest.raises(FileRefusedError, match="larger than 2000000 bytes") as caught:
        Store(tmp_path / "small", max_bytes=2_000_000).ingest(source)
    assert caught.value.reason is Reason.TOO_LARGE


def test_free_space_is_checked_before_copying(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that would leave too little free space is not begun."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  # the shape of shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, store.reserve_bytes + 1000))
    with pytest.raises(StoreFullError, match="must stay free"):
        store.ingest(source)
    assert staged(store) == []


def test_pickle_is_refused_unopened(store: Store, source: Path) -> None:
    """A pickle in place of safetensors is refused by its name; it is not even readable here."""
    (source / WEIGHTS_FILE).rename(source / "adapter_model.bin")
    (source / "adapter_model.bin").unlink()
    os.mkfifo(source / "adapter_model.bin")  # opening it would block for ever
    with pytest.raises(FileRefusedError, match="never opened") as caught:
        store.ingest(source)
    assert caught.value.reason is Reason.PICKLE


def test_links_out_pipes_and_missing_files_are_refused(store: Store, source: Path, tmp_path: Path) -> None:
    """Only regular files that lie in the directory itself are read."""
    weights = source / WEIGHTS_FILE
    outside = tmp_path / "outside"
    weights.rename(outside)
    reasons = []
    ways: tuple[Callable[[], None], ...] = (
        lambda: weights.symlink_to(outside),
        lambda: weights.symlink_to("/dev/zero"),
        lambda: os.mkfifo(weights),
        weights.mkdir,
    )
    for prepare in ways:
        prepare()
        with pytest.raises(FileRefusedError) as caught:
            store.ingest(source)
        reasons.append(caught.value.reason)
        weights.rmdir() if weights.is_dir() else weights.unlink()
    with pytest.raises(FileRefusedError) as caught:
        store.ingest(source)
    reasons.append(caught.value.reason)
    assert reasons == [
        Reason.SYMLINK,
        Reason.SYMLINK,
        Reason.NOT_A_REGULAR_FILE,
        Reason.NOT_A_REGULAR_FILE,
        Reason.MISSING_FILE,
    ]


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
