"""An adapter whose files vanish must not take the engine along."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.engine.common.spool import AdapterSpool

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


def test_a_copy_is_made_once_and_forgotten(tmp_path: Path) -> None:
    """The first path call copies; later ones answer without the source; forgetting deletes the copy."""
    source, root = tmp_path / "source", tmp_path / "spool"
    source.mkdir()
    root.mkdir()
    (source / "adapter_config.json").write_text("{}")
    spool = AdapterSpool(root)
    kept = Path(spool.path(1, str(source)))
    shutil.rmtree(source)
    assert spool.path(1, str(source)) == str(kept)
    assert (kept / "adapter_config.json").read_text() == "{}"
    spool.forget(1)
    assert not kept.exists()


def test_what_is_no_directory_is_left_to_vllm(tmp_path: Path) -> None:
    """A hub id is not ours to copy."""
    assert AdapterSpool(tmp_path).path(1, "org/name") == "org/name"
