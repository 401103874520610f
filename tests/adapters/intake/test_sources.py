"""Adapters arrive whole from every kind of source, or not at all."""

import io
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.beneath import Folder
from lorecall.adapters.core.refusals import ArchiveRefusedError, Reason, RefusedError, SourceRefusedError
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE

from tests.adapters.fetching import BIG, contents, left_over, put, refusal
from tests.adapters.malicious_archives import GOOD, tar_of, zip_of
from tests.hub import Hub


def test_s3_directory(sources: Sources, bucket: str, tmp_path: Path) -> None:
    """A directory on S3 comes byte for byte, into the store under its digest; nothing is left behind."""
    files = {**BIG, TRAINING_FILE: b'{"seed": 1}'}
    put(sources, f"{bucket}/acme/v1", {**files, "optimizer.pt": b"never read"})
    with sources.fetched(f"{bucket}/acme/v1/") as fetched:
        assert contents(fetched.files) == files
        stored = Store(tmp_path / "store").ingest(fetched.files)
    assert contents(stored.path) == BIG
    assert left_over(sources) == []


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_s3_archive(sources: Sources, bucket: str, suffix: str) -> None:
    """An archive on S3 is fetched and unpacked."""
    put(sources, bucket, {f"adapter.{suffix}": zip_of() if suffix == "zip" else tar_of(mode="w:gz")})
    with sources.fetched(f"{bucket}/adapter.{suffix}") as fetched:
        assert contents(fetched.files) == GOOD
    assert left_over(sources) == []


@pytest.mark.parametrize("revision", ["", "@v1.2"])
def test_hub_repository(sources: Sources, hub: Hub, revision: str) -> None:
    """A repository of the hub is read at the revision that is asked for."""
    hub.files = {**BIG, "README.md": b"text"}
    hub.revisions = {revision.removeprefix("@") or "main"}
    with sources.fetched(f"hf://some-org/adapter{revision}") as fetched:
        assert contents(fetched.files) == BIG
    assert not any("README" in request for request in hub.requests)
    assert refusal(sources, "hf://some-org/adapter@nowhere").reason is Reason.MISSING_FILE


def test_what_else_fsspec_speaks(tmp_path: Path) -> None:
    """Any other protocol works once the operator allows it, and not before."""
    fsspec.filesystem("memory").pipe({f"/acme/{name}": content for name, content in GOOD.items()})
    allowed = Sources(tmp_path / "staging", SourcePolicy(allowed=SourceList(("memory://acme",))))
    with allowed.fetched("memory://acme") as fetched:
        assert contents(fetched.files) == GOOD
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
        with sources.fetched(source) as fetched:
            assert isinstance(fetched.files, Folder)
            assert fetched.files.path == place
            assert contents(fetched.files) == GOOD
    (tmp_path / "models" / "acme.zip").write_bytes(zip_of())
    with sources.fetched(str(tmp_path / "models" / "acme.zip")) as fetched:
        assert contents(fetched.files) == GOOD
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
    """Addresses that are not allowed, chain protocols or contain credentials are refused without a request."""
    with pytest.raises(SourceRefusedError) as caught:
        sources.check(source)
    assert caught.value.reason is reason
    assert "hush" not in str(caught.value)


def test_upload(sources: Sources) -> None:
    """The files of an uploaded archive exist during the block and are deleted afterwards, also after an error."""
    with sources.uploaded(io.BytesIO(tar_of(mode="w:gz"))) as fetched:
        assert contents(Path(str(fetched.files))) == GOOD
        assert fetched.beside == tuple(sorted(GOOD))
    with pytest.raises(ZeroDivisionError), sources.uploaded(io.BytesIO(zip_of())):
        raise ZeroDivisionError
    with pytest.raises(ArchiveRefusedError), sources.uploaded(io.BytesIO(zip_of(("../x", b"")))):
        pytest.fail("it was unpacked")
    assert left_over(sources) == []


def test_same_source_at_once(sources: Sources, bucket: str) -> None:
    """Several that ask for the same source at once do not disturb each other."""
    put(sources, bucket, BIG)
    barrier = threading.Barrier(4)

    def fetch(_: int) -> dict[str, bytes]:
        barrier.wait()
        with sources.fetched(bucket) as fetched:
            return contents(fetched.files)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, range(4))) == [BIG] * 4
    assert left_over(sources) == []


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
    """The missing file is named; pickled weights are refused unread."""
    put(sources, bucket, files)
    assert refusal(sources, bucket).reason is reason
    assert left_over(sources) == []


def test_unreachable_source_keeps_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing answers, the error names the address, not the server's key."""
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


def test_refused_adapter_is_not_kept(sources: Sources, bucket: str) -> None:
    """A complete download is deleted when its block ends, also when the adapter is refused."""
    put(sources, bucket, BIG)

    def refuse() -> None:
        raise RefusedError(Reason.BAD_JSON, "no")

    with pytest.raises(RefusedError, match="no"), sources.fetched(bucket):
        refuse()
    assert left_over(sources) == []
    shutil.rmtree(sources._staging)


@pytest.mark.parametrize("name", ["adapter.tar.xz", "adapter.7z"])
def test_archives_of_other_kinds_are_named(name: str, sources: Sources, tmp_path: Path, bucket: str) -> None:
    """By their suffix, before anything is downloaded; a folder of that name is a folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes(b"x")
    for source in (str(tmp_path / "models" / name), f"{bucket}/{name}"):
        with pytest.raises(SourceRefusedError, match="of a kind that is not read") as caught:
            sources.fetched(source).__enter__()
        assert "tar czf" in caught.value.hint
