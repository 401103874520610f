"""Adapters arrive whole from every kind of source, or not at all."""

import io
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from lorecall.adapters import download
from lorecall.adapters.download import Download
from lorecall.adapters.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from lorecall.adapters.refusals import ArchiveRefusedError, Reason, RefusedError, SourceRefusedError
from lorecall.adapters.sources import SourcePolicy, Sources
from lorecall.adapters.store import Store

from tests.adapters.malicious_archives import GOOD, tar_of, zip_of
from tests.hub import Hub, running_hub
from tests.s3 import running_s3

BIG = {**GOOD, WEIGHTS_FILE: os.urandom(1_000_000)}


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    with running_s3() as options:
        yield options


@pytest.fixture
def bucket(s3_options: dict[str, Any]) -> str:
    """The address of an empty bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", **s3_options).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub("some-org/adapter") as hub:
        yield hub


@pytest.fixture
def sources(tmp_path: Path, s3_options: dict[str, Any], hub: Hub) -> Sources:
    policy = SourcePolicy(
        local_roots=(tmp_path / "models",),
        max_bytes=8 << 20,
        storage_options={"s3": s3_options, "hf": hub.options},
    )
    return Sources(tmp_path / "staging", policy)


def put(sources: Sources, place: str, files: dict[str, bytes]) -> None:
    """Write files to a place on S3."""
    filesystem = fsspec.filesystem("s3", **sources.policy.storage_options["s3"])
    for name, content in files.items():
        filesystem.pipe(f"{place}/{name}", content)


def contents(directory: Path) -> dict[str, bytes]:
    """The adapter's files in a directory."""
    names = (CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE)
    return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


def left_over(sources: Sources) -> list[str]:
    return [path.name for path in (sources._staging).rglob("*")]


def refusal(sources: Sources, source: str) -> SourceRefusedError:
    with pytest.raises(SourceRefusedError) as caught, sources.fetched(source):
        pytest.fail("it was fetched")
    return caught.value


def test_s3_directory(sources: Sources, bucket: str, tmp_path: Path) -> None:
    """A directory on S3 comes byte for byte, into the store under its digest; nothing is left behind."""
    files = {**BIG, TRAINING_FILE: b'{"seed": 1}'}
    put(sources, f"{bucket}/acme/v1", {**files, "optimizer.pt": b"never read"})
    with sources.fetched(f"{bucket}/acme/v1/") as directory:
        assert contents(directory) == files
        stored = Store(tmp_path / "store").ingest(directory)
    assert contents(stored.path) == files
    assert left_over(sources) == []


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_s3_archive(sources: Sources, bucket: str, suffix: str) -> None:
    """An archive on S3 is fetched and unpacked."""
    put(sources, bucket, {f"adapter.{suffix}": zip_of() if suffix == "zip" else tar_of(mode="w:gz")})
    with sources.fetched(f"{bucket}/adapter.{suffix}") as directory:
        assert contents(directory) == GOOD
    assert left_over(sources) == []


@pytest.mark.parametrize("revision", ["", "@v1.2"])
def test_hub_repository(sources: Sources, hub: Hub, revision: str) -> None:
    """A repository of the hub is read at the revision that is asked for."""
    hub.files = {**BIG, "README.md": b"text"}
    hub.revisions = {revision.removeprefix("@") or "main"}
    with sources.fetched(f"hf://some-org/adapter{revision}") as directory:
        assert contents(directory) == BIG
    assert not any("README" in request for request in hub.requests)
    assert refusal(sources, "hf://some-org/adapter@nowhere").reason is Reason.MISSING_FILE


def test_what_else_fsspec_speaks(tmp_path: Path) -> None:
    """Any other protocol works once the operator allows it, and not before."""
    fsspec.filesystem("memory").pipe({f"/acme/{name}": content for name, content in GOOD.items()})
    allowed = Sources(tmp_path / "staging", SourcePolicy(schemes=frozenset({"memory"})))
    with allowed.fetched("memory://acme") as directory:
        assert contents(directory) == GOOD
    assert (
        refusal(Sources(tmp_path / "other", SourcePolicy()), "memory://acme").reason
        is Reason.SOURCE_NOT_ALLOWED
    )


def test_local_directory_and_archive(sources: Sources, tmp_path: Path) -> None:
    """A local directory is used where it is and left as it is; a local archive is unpacked."""
    place = tmp_path / "models" / "acme"
    place.mkdir(parents=True)
    for name, content in GOOD.items():
        (place / name).write_bytes(content)
    for source in (str(place), f"file://{place}"):
        with sources.fetched(source) as directory:
            assert directory == place
    (tmp_path / "models" / "acme.zip").write_bytes(zip_of())
    with sources.fetched(str(tmp_path / "models" / "acme.zip")) as directory:
        assert contents(directory) == GOOD
    assert contents(place) == GOOD
    assert left_over(sources) == []
    assert refusal(sources, str(tmp_path / "models" / "none")).reason is Reason.MISSING_FILE
    assert refusal(sources, str(place / CONFIG_FILE)).reason is Reason.MISSING_FILE


def test_paths_outside_the_roots_are_refused(sources: Sources, tmp_path: Path) -> None:
    """Neither dots, nor links, nor a root's name as a prefix lead out of the allowed directories."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models-private").mkdir()
    (tmp_path / "models" / "link").symlink_to("/etc")
    root = f"{tmp_path}/models"
    for source in (
        "/etc", "/", str(tmp_path), f"{root}/../../etc", f"{root}/link", f"{root}-private", "models/acme",
        "file:///etc", "file://models", "~/models", "", f"{root}\x00", f"{root}\n",
    ):  # fmt: skip
        with pytest.raises(SourceRefusedError) as caught:
            sources.check(source)
        assert caught.value.reason is Reason.SOURCE_NOT_ALLOWED, source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data", Reason.SOURCE_NOT_ALLOWED),
        ("https://example.org/adapter.zip", Reason.SOURCE_NOT_ALLOWED),
        ("ssh://host/etc", Reason.SOURCE_NOT_ALLOWED),
        ("simplecache::s3://bucket/x", Reason.SOURCE_NOT_ALLOWED),
        ("zip://x::s3://bucket/x.zip", Reason.SOURCE_NOT_ALLOWED),
        ("s3://key:hush@bucket/x", Reason.SOURCE_NOT_ALLOWED),
        ("S3://bucket/x", Reason.SOURCE_NOT_ALLOWED),
        ("s3://bucket/\u202egnp", Reason.SOURCE_NOT_ALLOWED),
        ("s3://bucket/" + "x" * 2000, Reason.SOURCE_NOT_ALLOWED),
        ("s3://bucket/../other", Reason.UNSAFE_PATH),
        ("hf://org/../../x", Reason.UNSAFE_PATH),
    ],
)
def test_bad_addresses_are_refused_unread(sources: Sources, source: str, reason: Reason) -> None:
    """Addresses that are not allowed, chain protocols or carry credentials are refused by their look."""
    with pytest.raises(SourceRefusedError) as caught:
        sources.check(source)
    assert caught.value.reason is reason
    assert "hush" not in str(caught.value)


def test_upload(sources: Sources) -> None:
    """An uploaded archive is there for the block and gone afterwards, whatever happens in it."""
    with sources.uploaded(io.BytesIO(tar_of(mode="w:gz"))) as directory:
        assert contents(directory) == GOOD
    with pytest.raises(ZeroDivisionError), sources.uploaded(io.BytesIO(zip_of())):
        raise ZeroDivisionError
    with pytest.raises(ArchiveRefusedError), sources.uploaded(io.BytesIO(zip_of(("../x", b"")))):
        pytest.fail("it was unpacked")
    assert left_over(sources) == []


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


def test_broken_download_goes_on_where_it_stopped(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure a later attempt, in a server started anew, fetches only what is missing."""
    put(sources, bucket, BIG)
    with monkeypatch.context() as patch:
        break_after(patch, 4)  # the configuration, and three chunks of the weights
        failed = refusal(sources, bucket)
    assert failed.reason is Reason.SOURCE_FAILED
    assert "line went dead" in failed.message
    restarted = Sources(sources._staging, sources.policy)
    with restarted.fetched(bucket) as directory:
        assert contents(directory) == BIG
    assert small_chunks == [0, 300_000]
    assert left_over(sources) == []


def test_attempts_go_on_by_themselves(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short interruption is not even noticed."""
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    put(sources, bucket, BIG)
    break_after(monkeypatch, 4)
    with sources.fetched(bucket) as directory:
        assert contents(directory) == BIG
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
    with sources.fetched(bucket) as directory:
        assert contents(directory) == changed
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
    with sources.fetched(bucket) as directory:
        assert contents(directory) == {**BIG, CONFIG_FILE: b'{"r": 8}'}


def test_same_source_at_once(sources: Sources, bucket: str) -> None:
    """Several that ask for the same source at once do not disturb each other."""
    put(sources, bucket, BIG)
    barrier = threading.Barrier(4)

    def fetch(_: int) -> dict[str, bytes]:
        barrier.wait()
        with sources.fetched(bucket) as directory:
            return contents(directory)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, range(4))) == [BIG] * 4
    assert left_over(sources) == []


def test_too_large_is_refused_before_a_byte_is_read(
    sources: Sources, bucket: str, small_chunks: list[int]
) -> None:
    """What the source says of its size is enough to refuse it."""
    put(sources, bucket, {**GOOD, WEIGHTS_FILE: bytes(9 << 20)})
    assert refusal(sources, bucket).reason is Reason.TOO_LARGE
    assert small_chunks == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, Reason.MISSING_FILE),
        ({CONFIG_FILE: b"{}"}, Reason.MISSING_FILE),
        ({WEIGHTS_FILE: b"x"}, Reason.MISSING_FILE),
        ({CONFIG_FILE: b"{}", "adapter_model.bin": b"x"}, Reason.PICKLE),
    ],
)
def test_incomplete_sources(sources: Sources, bucket: str, files: dict[str, bytes], reason: Reason) -> None:
    """What a place lacks is named; pickled weights are refused unread."""
    put(sources, bucket, files)
    assert refusal(sources, bucket).reason is reason
    assert left_over(sources) == []


def test_unreachable_source_keeps_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers the error names the place, not the server's key."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    options = {
        "key": "AKIAHUSH", "secret": "hush-hush", "endpoint_url": "http://127.0.0.1:1",
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }  # fmt: skip
    sources = Sources(tmp_path, SourcePolicy(storage_options={"s3": options}))
    error = refusal(sources, "s3://bucket/acme")
    assert error.reason is Reason.SOURCE_FAILED
    assert "hush" not in str(error).lower()
    assert "s3://bucket/acme" in error.message


def test_abandoned_downloads_are_swept(
    sources: Sources, bucket: str, small_chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that nobody went on with for a day goes at the next start; a fresh one stays."""
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


def test_refused_adapter_is_not_kept(sources: Sources, bucket: str) -> None:
    """A complete download goes away with its block, also when what follows refuses it."""
    put(sources, bucket, BIG)

    def refuse() -> None:
        raise RefusedError(Reason.BAD_JSON, "no")

    with pytest.raises(RefusedError, match="no"), sources.fetched(bucket):
        refuse()
    assert left_over(sources) == []
    shutil.rmtree(sources._staging)
