"""What comes from the hub or S3 is pinned: a server that fetches it later gets the same bytes, or an error."""

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import fsspec
import pytest
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.refusals import Reason, SourceRefusedError
from lorecall.adapters.intake.download import Download
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.shared_store import SharedStore
from lorecall.adapters.intake.sources import Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits

from tests.adapters import spoiling
from tests.adapters.fetching import BIG, contents, put, refusal
from tests.adapters.malicious_archives import GOOD, tar_of
from tests.hub import Hub

CHANGED = {**BIG, WEIGHTS_FILE: os.urandom(1_000_000)}


def address_of(sources: Sources, source: str) -> str:
    """Fetch a source and return its pinned address."""
    with sources.fetched(source) as fetched:
        return fetched.address


def fetched(sources: Sources, source: str) -> dict[str, bytes]:
    with sources.fetched(source) as found:
        return contents(found.files)


def versioned(sources: Sources, bucket: str) -> str:
    """Let a bucket keep versions."""
    files = fsspec.filesystem("s3", **sources.policy.storage_options["s3"])
    name = bucket.removeprefix("s3://")
    files.call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.mark.parametrize("revision", ["", "@main", "@v1.2"])
def test_a_revision_of_the_hub_becomes_its_commit(sources: Sources, hub: Hub, revision: str) -> None:
    """When the branch or the tag has moved, the address that was recorded gives the bytes from then."""
    hub.files, hub.revisions = dict(BIG), {"main", "v1.2"}
    pinned = address_of(sources, f"hf://some-org/adapter{revision}")
    assert pinned == f"hf://some-org/adapter@{hub.commit()}"
    hub.files = dict(CHANGED)
    assert fetched(sources, f"hf://some-org/adapter{revision}") == CHANGED
    assert fetched(sources, pinned) == BIG
    assert address_of(sources, pinned) == pinned


def test_a_branch_that_moves_during_the_download_changes_nothing(
    sources: Sources, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files come from the commit that was found first."""
    hub.files = dict(BIG)
    answer, states = hub.at, cycle([CHANGED, BIG])

    def moving(revision: str) -> dict[str, bytes] | None:
        found = answer(revision)
        hub.files = dict(next(states))
        return found

    monkeypatch.setattr(hub, "at", moving)
    assert fetched(sources, "hf://some-org/adapter") in (BIG, CHANGED)


def test_a_commit_that_was_deleted_is_an_error(sources: Sources, hub: Hub) -> None:
    """A force-push takes it away: the error says so, and the branch's present bytes are not taken."""
    hub.files = dict(BIG)
    pinned = address_of(sources, "hf://some-org/adapter")
    hub.files = dict(CHANGED)
    hub.commits.clear()
    error = refusal(sources, pinned)
    assert error.reason is Reason.MISSING_FILE
    assert "if the commit was deleted" in error.hint
    assert "LORECALL_SHARED" in error.hint


@pytest.mark.parametrize("files", [BIG, {**BIG, TRAINING_FILE: b'{"seed": 1}'}])
def test_versions_on_s3_are_read_again(sources: Sources, bucket: str, files: dict[str, bytes]) -> None:
    """In a bucket that keeps versions, what was overwritten or deleted since is still read."""
    put(sources, versioned(sources, bucket), files)
    pinned = address_of(sources, bucket)
    assert pinned.startswith(f"{bucket}#{CONFIG_FILE}=version:")
    assert fetched(sources, pinned) == files
    put(sources, bucket, {**CHANGED, TRAINING_FILE: b'{"seed": 2}'})
    assert fetched(sources, pinned) == files
    assert address_of(sources, pinned) == pinned
    fsspec.filesystem("s3", **sources.policy.storage_options["s3"]).rm_file(f"{bucket}/{WEIGHTS_FILE}")
    assert fetched(sources, pinned) == files
    assert refusal(sources, bucket).reason is Reason.MISSING_FILE


def test_a_version_that_was_deleted_on_s3_is_an_error(sources: Sources, bucket: str) -> None:
    """It is not replaced by the present one."""
    put(sources, versioned(sources, bucket), BIG)
    pinned = address_of(sources, bucket)
    put(sources, bucket, CHANGED)
    version = pinned.partition(f"{WEIGHTS_FILE}=version:")[2]
    files = fsspec.filesystem("s3", **sources.policy.storage_options["s3"])
    key = {"Bucket": bucket.removeprefix("s3://"), "Key": WEIGHTS_FILE}
    files.call_s3("delete_object", **key, VersionId=version)
    assert_changed(refusal(sources, pinned))


def test_etags_on_s3_are_compared(sources: Sources, bucket: str) -> None:
    """In a bucket without versions, other bytes are an error before they are read; the same are the same."""
    put(sources, bucket, BIG)
    pinned = address_of(sources, bucket)
    assert pinned.startswith(f"{bucket}#{CONFIG_FILE}=etag:")
    put(sources, bucket, BIG)
    assert fetched(sources, pinned) == BIG
    put(sources, bucket, {TRAINING_FILE: b"{}"})
    assert fetched(sources, pinned) == BIG, "a file that was not there then is left out"
    put(sources, bucket, CHANGED)
    assert_changed(refusal(sources, pinned))
    fsspec.filesystem("s3", **sources.policy.storage_options["s3"]).rm_file(f"{bucket}/{WEIGHTS_FILE}")
    assert_changed(refusal(sources, pinned))


def test_a_change_right_after_the_comparison_is_noticed(
    sources: Sources, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The etags are compared again with what is read."""
    put(sources, bucket, BIG)
    pinned = address_of(sources, bucket)
    compare = Download._as_pinned

    def changing(self: Download, wanted: Mapping[str, str]) -> Mapping[str, str]:
        found = compare(self, wanted)
        put(sources, bucket, CHANGED)
        return found

    monkeypatch.setattr(Download, "_as_pinned", changing)
    assert_changed(refusal(sources, pinned))


@pytest.mark.parametrize("keep", [True, False])
def test_an_archive_on_s3_is_pinned(sources: Sources, bucket: str, *, keep: bool) -> None:
    """An archive is one object with one version, or one etag."""
    if keep:
        versioned(sources, bucket)
    put(sources, bucket, {"acme.tar": tar_of()})
    pinned = address_of(sources, f"{bucket}/acme.tar")
    put(sources, bucket, {"acme.tar": tar_of(files={**GOOD, CONFIG_FILE: b'{"r": 8}'})})
    if keep:
        assert fetched(sources, pinned) == GOOD
    else:
        assert_changed(refusal(sources, pinned))


@pytest.mark.parametrize(
    "pins",
    ["x", "=", f"{CONFIG_FILE}=", f"{CONFIG_FILE}=latest:1", f"{CONFIG_FILE}=etag:%0a",
     f"{CONFIG_FILE}=version:a%20b"],
)  # fmt: skip
def test_malformed_pins_are_refused(sources: Sources, bucket: str, pins: str) -> None:
    """Before a request is made."""
    assert refusal(sources, f"{bucket}#{pins}").reason is Reason.SOURCE_NOT_ALLOWED


def assert_changed(error: SourceRefusedError) -> None:
    assert error.reason is Reason.SOURCE_FAILED
    assert "has changed since" in error.message
    assert "LORECALL_SHARED" in error.hint


class Fleet:
    """Servers with a store of their own each, on one registry."""

    def __init__(self, place: Path, sources: Sources, registry: Registry, base: BaseFacts) -> None:
        self._place, self._sources, self._registry, self._base = place, sources, registry, base

    def server(self, name: str, shared: SharedStore | None = None) -> AdapterPipeline:
        """Start one."""
        sources = Sources(self._place / name / "staging", self._sources.policy)
        store = Store(self._place / name / "store")
        return AdapterPipeline(sources, store, self._registry, self._base, AdapterLimits(max_rank=16), shared)


@pytest.fixture
def fleet(tmp_path: Path, sources: Sources, registry: Registry) -> Fleet:
    return Fleet(tmp_path, sources, registry, read_base_facts(spoiling.write_base(tmp_path / "base")))


@pytest.fixture
def adapters(tmp_path: Path) -> list[dict[str, bytes]]:
    """Two versions of an adapter."""
    found = []
    for number in (1, 2):
        directory = spoiling.write_adapter(tmp_path / "models" / str(number))
        spoiling.setting(lora_alpha=number)(directory)
        found.append({name: (directory / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)})
    return found


@pytest.mark.parametrize("origin", ["hub", "s3"])
def test_a_replica_that_starts_later_gets_the_same_bytes(
    fleet: Fleet, sources: Sources, hub: Hub, bucket: str, adapters: list[dict[str, bytes]], origin: str
) -> None:
    """The registry has the pinned address; a new server fetches what it was then, though it moved on."""
    source = "hf://some-org/adapter" if origin == "hub" else versioned(sources, bucket)

    def publish(files: dict[str, bytes]) -> None:
        hub.files = dict(files)
        put(sources, bucket, files)

    publish(adapters[0])
    record, info = fleet.server("one").add("acme", source, actor="ann")
    assert record.source.startswith(source)
    assert ("@" if origin == "hub" else "#") in record.source
    publish(adapters[1])
    assert fleet.server("two").materialise(record).version == info.version
    other, _ = fleet.server("one").add("acme", source, actor="ann")
    assert other.version != record.version


def test_a_source_that_keeps_nothing_is_a_clear_error_and_the_shared_copy_helps(
    fleet: Fleet, sources: Sources, bucket: str, adapters: list[dict[str, bytes]]
) -> None:
    """Without versions the bytes are gone, and the error says what helps: LORECALL_SHARED keeps all adapters."""
    put(sources, bucket, adapters[0])
    record, info = fleet.server("one").add("acme", bucket, actor="ann")
    shelf = f"{bucket}/shelf"
    shared = SharedStore(shelf, sources.policy.storage_options["s3"])
    kept = fleet.server("three", shared).add("other", bucket, actor="ann")[0]
    put(sources, bucket, adapters[1])
    with pytest.raises(SourceRefusedError) as caught:
        fleet.server("two").materialise(record)
    assert_changed(caught.value)
    assert fleet.server("four", shared).materialise(kept).version == info.version


def test_the_shared_folder_is_no_source_for_callers(tmp_path: Path, sources: Sources, bucket: str) -> None:
    """Another tenant's adapter is not added from there by its digest; the server itself reads it."""
    put(sources, f"{bucket}/shelf/{'a' * 64}", GOOD)
    barred = SourceList((f"{bucket}/shelf",))
    guarded = Sources(tmp_path / "guarded", replace(sources.policy, barred=barred))
    for source in (f"{bucket}/shelf/{'a' * 64}", f"{bucket}/shelf"):
        assert refusal(guarded, source).reason is Reason.SOURCE_NOT_ALLOWED
    with guarded.fetched(f"{bucket}/shelf/{'a' * 64}", our_own=True) as found:
        assert contents(found.files) == GOOD


def test_a_key_reads_only_its_own_prefix(sources: Sources, hub: Hub, bucket: str) -> None:
    """A key's list narrows the server's, and never widens it."""
    hub.files = dict(GOOD)
    put(sources, f"{bucket}/acme/x", GOOD)
    put(sources, f"{bucket}/acme-evil/x", GOOD)
    own = SourceList((f"{bucket}/acme/", "hf://other-org/*", "/", "memory://acme"))
    with sources.fetched(f"{bucket}/acme/x", own) as found:
        assert contents(found.files) == GOOD
    for source in (f"{bucket}/acme-evil/x", "hf://some-org/adapter"):
        with pytest.raises(SourceRefusedError, match="API key may not"), sources.fetched(source, own):
            pytest.fail("it was read")
    for source in ("/etc", "memory://acme"):
        with pytest.raises(SourceRefusedError, match="this server does not"), sources.fetched(source, own):
            pytest.fail("it was read")
    with pytest.raises(SourceRefusedError, match="uploads only"), sources.fetched(bucket, SourceList(())):
        pytest.fail("it was read")
    assert hub.requests == []
