"""An adapter whose files vanish must not take the engine along."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.intake.store import Store
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.engine.common.spool import COPIES, AdapterSpool, delete_leftovers

from tests.tiny import build_tiny_adapter


def evict_and_ask_again(engine: EngineHost, base: Path, root: Path) -> tuple[list[int], list[int]]:
    """Load more adapters than the engine keeps, delete the files of the first, and ask for it again."""
    adapters: list[dict[str, Any]] = []
    for number in range(101, 107):  # the engine keeps four
        path = root / str(number)
        build_tiny_adapter(path, base, rank=2, seed=number)
        adapters.append({"name": str(number), "id": number, "path": str(path)})
    requests = [{"ids": [5, 6, 7], "max_tokens": 6, "adapter": adapter} for adapter in adapters]
    before = engine.run([requests[0]])[0]["ids"]
    shutil.rmtree(adapters[0]["path"])
    for request in requests[1:]:
        engine.run([request])
    return before, engine.run([requests[0]])[0]["ids"]


@pytest.mark.engine
def test_vanished_files_do_not_matter(
    plain_engine: EngineHost, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """An evicted adapter is read again from our own copy, and answers as before."""
    before, after = evict_and_ask_again(plain_engine, tiny("none"), tmp_path)
    assert after == before


@pytest.mark.engine
def test_stock_dies_of_vanished_files(
    stock_engine: EngineHost, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """Stock vLLM's engine dies when an evicted adapter's files are gone: when this fails, the fix can go."""
    with pytest.raises(EngineDiedError):
        evict_and_ask_again(stock_engine, tiny("none"), tmp_path)


def spooled(root: Path) -> list[Path]:
    """Return the folders that a store's spool holds now."""
    return list((root / ".staging").iterdir())


def test_a_copy_is_made_once_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first path call copies; later ones answer without the source; forgetting deletes the copy."""
    source, root = tmp_path / "source", tmp_path / "temporary"
    source.mkdir()
    root.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    (source / "adapter_config.json").write_text("{}")
    spool = AdapterSpool()
    assert not list(root.iterdir())  # nothing before the first load
    kept = Path(spool.path(1, str(source)))
    shutil.rmtree(source)
    assert spool.path(1, str(source)) == str(kept)
    assert (kept / "adapter_config.json").read_text() == "{}"
    spool.forget(1)
    assert not kept.exists()
    spool.close()
    assert not list(root.iterdir())


def test_a_copy_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: what was copied of it is deleted, and the next try copies it whole."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = tmp_path / "adapter"
    source.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (source / name).write_text(name)
    copy, spool = shutil.copyfile, AdapterSpool()

    def full(file: Path, target: Path) -> None:
        if file.suffix == ".safetensors":
            target.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                spool.path(7, str(source))
    (copies,) = tmp_path.glob(f"{COPIES}*")
    assert list(copies.iterdir()) == []
    kept = Path(spool.path(7, str(source)))
    assert (kept / "adapter_model.safetensors").read_text() == "adapter_model.safetensors"
    spool.close()
    assert not copies.exists()


def test_what_is_no_directory_is_left_to_vllm() -> None:
    """A hub id is not ours to copy."""
    assert AdapterSpool().path(1, "org/name") == "org/name"


def test_a_stored_version_is_linked_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers share the store's bytes, keep them when the store deletes its own, and write nothing to /tmp."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    store = Store(tmp_path / "store", reserve_bytes=0)
    stored = store.ingest(adapter)
    spools = [AdapterSpool(), AdapterSpool()]  # two ranks of tensor parallelism
    kept = [Path(one.path(7, str(stored.path))) for one in spools]
    weights = stored.path / "adapter_model.safetensors"
    assert all((one / weights.name).samefile(weights) for one in kept)
    assert not list(temporary.iterdir())
    store.remove(stored.version)
    assert [(one / weights.name).read_bytes() for one in kept] == [b"weights"] * 2
    assert store.delete_leftovers() == 0  # both are in use
    spools[0].forget(7)
    assert (kept[0].exists(), kept[1].exists()) == (False, True)
    for one in spools:
        one.close()
    assert not spooled(store.root)


def test_links_of_a_killed_worker_go_with_the_next_store(tmp_path: Path) -> None:
    """A process that was killed holds no lock any more, so its links keep no deleted version on the disk."""
    store, adapter = Store(tmp_path / "store", reserve_bytes=0), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    stored = store.ingest(adapter)
    code = (
        "import os, sys; from lorecall.server.engine.common.spool import AdapterSpool; "
        "AdapterSpool().path(1, sys.argv[1]); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(stored.path)], check=False)
    assert len(spooled(store.root)) == 1
    Store(store.root)
    assert not spooled(store.root)


def test_copies_of_a_killed_worker_go_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder in the temporary directory is deleted; that of a worker which lives is left alone."""
    temporary, adapter = tmp_path / "temporary", tmp_path / "adapter"
    temporary.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    code = (
        "import os, signal, sys; from lorecall.server.engine.common.spool import AdapterSpool; "
        "AdapterSpool().path(1, sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environ = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", code, str(adapter)], env=environ, check=False)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    spool = AdapterSpool()
    kept = Path(spool.path(1, str(adapter)))
    assert len(list(temporary.iterdir())) == 2
    assert delete_leftovers() == 1
    assert (kept / "adapter_config.json").read_text() == "{}"
    spool.close()
    assert not list(temporary.iterdir())


def test_a_store_that_cannot_be_written_to_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only store, or a file system without hard links, costs room and nothing else."""
    store, adapter = Store(tmp_path / "store", reserve_bytes=0), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    stored = store.ingest(adapter)

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(self, target)

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    spool = AdapterSpool()
    kept = Path(spool.path(1, str(stored.path))) / "adapter_model.safetensors"
    assert kept.read_bytes() == b"weights"
    assert not kept.samefile(stored.path / "adapter_model.safetensors")
    spool.close()


def test_a_version_that_is_deleted_while_it_is_linked_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its files are no adapter: they go, and the version is linked once it is stored again."""
    store, adapter = Store(tmp_path / "store", reserve_bytes=0), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    stored, link = store.ingest(adapter), Path.hardlink_to

    def link_and_delete(self: Path, target: Path) -> None:
        link(self, target)
        store.remove(stored.version)

    spool = AdapterSpool()
    with monkeypatch.context() as racing:
        racing.setattr(Path, "hardlink_to", link_and_delete)
        copied = Path(spool.path(7, str(stored.path)))
    (links,) = spooled(store.root)
    assert not list(links.iterdir())
    assert not list(copied.iterdir())  # vLLM says which file is missing, and `load_adapter` forgets it
    spool.forget(7)
    stored = store.ingest(adapter)
    assert (Path(spool.path(7, str(stored.path))) / "adapter_config.json").samefile(
        stored.path / "adapter_config.json"
    )
    spool.close()
