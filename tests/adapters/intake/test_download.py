"""Downloads go on where they stopped, and never join parts of two versions."""

import fcntl
import io
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lorecall.adapters.core.refusals import Reason
from lorecall.adapters.intake import download
from lorecall.adapters.intake.download import Download
from lorecall.adapters.intake.sources import Sources
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

from tests.adapters.fetching import BIG, contents, left_over, put, refusal
from tests.adapters.malicious_archives import GOOD, zip_of
from tests.vanishing import while_files_vanish


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Download in small pieces; gives the list of offsets at which weights were begun to be read."""
    monkeypatch.setattr(download, "_CHUNK_BYTES", 100_000)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    offsets: list[int] = []
    append = Download._append

    def logged(self: Download, path: str, target: Path, have: int, size: int) -> None:
        if target.name == WEIGHTS_FILE:
            offsets.append(have)
        append(self, path, target, have, size)

    monkeypatch.setattr(Download, "_append", logged)
    return offsets


def break_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """Let the connection break when so many chunks have been written."""
    left = [chunks]
    fsync = os.fsync

    def failing(handle: int) -> None:
        fsync(handle)
        left[0] -= 1
        if not left[0]:
            raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(os, "fsync", failing)


def at_each_chunk(monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> None:
    """Do something whenever a chunk has been written."""
    fsync = os.fsync

    def hooked(handle: int) -> None:
        fsync(handle)
        call()

    monkeypatch.setattr(os, "fsync", hooked)


def test_a_download_has_one_deadline(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly the bytes come, it ends then, keeps what has arrived, and the next one goes on there."""
    put(sources, bucket, BIG)
    hurried = Sources(sources._staging, replace(sources.policy, download_seconds=350.0))
    monkeypatch.setattr(download, "ATTEMPTS", 4)
    with monkeypatch.context() as patch:
        now = [0.0]
        patch.setattr(download, "time", SimpleNamespace(monotonic=lambda: now[0]))
        at_each_chunk(patch, lambda: now.__setitem__(0, now[0] + 100.0))
        failed = refusal(hurried, bucket)
    assert failed.reason is Reason.SOURCE_FAILED
    assert "350 s" in failed.message
    assert "LORECALL_DOWNLOAD_SECONDS" in failed.hint
    with sources.fetched(bucket) as fetched:
        assert contents(fetched.files) == BIG
    assert small_chunks == [0, 300_000]  # the configuration took the first of the four


def test_the_wait_for_another_download_of_the_same_source_ends_too(sources: Sources, bucket: str) -> None:
    """Its lock is held by somebody who does not get on."""
    put(sources, bucket, GOOD)
    hurried = Sources(sources._staging, replace(sources.policy, download_seconds=0.01))
    with sources.fetched(bucket):
        assert "0.01 s" in refusal(hurried, bucket).message


def test_a_server_that_stops_waits_for_no_download(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between two reads, and none begins after it."""
    put(sources, bucket, BIG)
    with monkeypatch.context() as patch:
        at_each_chunk(patch, sources.stop)
        assert "server stops" in refusal(sources, bucket).message
    assert "server stops" in refusal(sources, bucket).message
    assert not small_chunks


def test_broken_download_goes_on_where_it_stopped(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure a later attempt, also after a restart, fetches only what is missing."""
    put(sources, bucket, BIG)
    with monkeypatch.context() as patch:
        break_after(patch, 4)  # the configuration, and three chunks of the weights
        failed = refusal(sources, bucket)
    assert failed.reason is Reason.SOURCE_FAILED
    assert "line went dead" in failed.message
    restarted = Sources(sources._staging, sources.policy)
    with restarted.fetched(bucket) as fetched:
        assert contents(fetched.files) == BIG
    assert small_chunks == [0, 300_000]
    assert left_over(sources) == []


def test_attempts_go_on_by_themselves(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short interruption causes no error."""
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    put(sources, bucket, BIG)
    break_after(monkeypatch, 4)
    with sources.fetched(bucket) as fetched:
        assert contents(fetched.files) == BIG
    assert small_chunks == [0, 300_000]


def test_parts_of_two_versions_are_never_joined(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the source changes after a broken download, what came before is thrown away."""
    put(sources, bucket, BIG)
    with monkeypatch.context() as patch:
        break_after(patch, 4)
        refusal(sources, bucket)
    changed = {**BIG, WEIGHTS_FILE: os.urandom(1_000_000)}
    put(sources, bucket, changed)
    with sources.fetched(bucket) as fetched:
        assert contents(fetched.files) == changed
    assert small_chunks == [0, 0]


def test_change_under_the_download_is_noticed(
    sources: Sources, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the configuration changes while the weights are read, both are fetched again."""
    put(sources, bucket, BIG)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    append = Download._append
    changes = iter([b'{"r": 8}'])

    def changing(self: Download, path: str, target: Path, have: int, size: int) -> None:
        append(self, path, target, have, size)
        if target.name == WEIGHTS_FILE and (config := next(changes, None)):
            put(sources, bucket, {CONFIG_FILE: config})

    monkeypatch.setattr(Download, "_append", changing)
    with sources.fetched(bucket) as fetched:
        assert contents(fetched.files) == {**BIG, CONFIG_FILE: b'{"r": 8}'}


def test_too_large_is_refused_before_a_byte_is_read(
    sources: Sources, bucket: str, small_chunks: list[int]
) -> None:
    """A source that states too large a size is refused before anything is read."""
    put(sources, bucket, {**GOOD, WEIGHTS_FILE: bytes(9 << 20)})
    assert refusal(sources, bucket).reason is Reason.TOO_LARGE
    assert small_chunks == []


def test_abandoned_downloads_are_swept(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial download that nobody resumed for a day is deleted at the next start; a recent one stays."""
    put(sources, bucket, BIG)
    with monkeypatch.context() as patch:
        break_after(patch, 4)
        refusal(sources, bucket)
    assert small_chunks == [0]
    Sources(sources._staging, sources.policy)
    assert WEIGHTS_FILE in left_over(sources)
    for path in sources._staging.rglob("*"):
        os.utime(path, (0, 0))
    Sources(sources._staging, sources.policy)
    assert left_over(sources) == []


def test_sweeping_beside_others_is_no_error(sources: Sources) -> None:
    """Whenever another process deletes the abandoned downloads, the start goes on, and nothing is left."""
    staging = sources._staging

    def fill() -> None:
        for name in ("one", "two"):
            place = staging / name
            (place / "unpacked").mkdir(parents=True)
            for file in (staging / f"{name}.lock", place / WEIGHTS_FILE, place / "unpacked" / CONFIG_FILE):
                file.write_text("x")
            for path in (*place.rglob("*"), place, staging / f"{name}.lock"):
                os.utime(path, (0, 0))

    def start() -> None:
        Sources(staging, sources.policy)
        assert left_over(sources) == []

    assert while_files_vanish(staging, fill, start) > 20


def test_a_download_that_goes_on_meanwhile_is_not_swept(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that another process resumed while we waited for its lock stays."""
    place = sources._staging / "one"
    place.mkdir()
    for file in (place / WEIGHTS_FILE, place.with_suffix(".lock")):
        file.write_text("x")
        os.utime(file, (0, 0))
    flock = fcntl.flock

    def resumed(handle: int, how: int) -> None:
        flock(handle, how)
        (place / WEIGHTS_FILE).write_text("more")

    monkeypatch.setattr(fcntl, "flock", resumed)
    Sources(sources._staging, sources.policy)
    assert (place / WEIGHTS_FILE).read_text() == "more"


@pytest.mark.parametrize("how", ["upload", "download"])
def test_files_that_vanish_after_use_are_no_error(sources: Sources, bucket: str, how: str) -> None:
    """An adapter that was read whole is whole, also if a cleaner of old files deletes its copy before us."""
    put(sources, bucket, GOOD)
    used = sources.uploaded(io.BytesIO(zip_of())) if how == "upload" else sources.fetched(bucket)
    with used:
        shutil.rmtree(sources._staging)
        sources._staging.mkdir()
    assert left_over(sources) == []
