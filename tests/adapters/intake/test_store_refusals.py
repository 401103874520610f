"""What the store does not take: it says why, and nothing is left of it."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lorecall.adapters.core.refusals import FileRefusedError, Reason, StoreFullError
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.files import WEIGHTS_FILE

from tests.adapters.intake.conftest import staged

if TYPE_CHECKING:
    from collections.abc import Callable


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
