"""An adapter is fetched, stored, validated and registered, or refused; other servers fetch it again."""

import io
import os
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.refusals import NameRefusedError, Reason, RefusedError, SourceRefusedError
from lorecall.adapters.intake import pipeline, store
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.intake.shared_store import SharedStore
from lorecall.adapters.intake.sources import Fetched, SourcePolicy, Sources
from lorecall.adapters.intake.store import Store, StoredVersion
from lorecall.adapters.peft_format import adapter as peft_adapter
from lorecall.adapters.peft_format import digest
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.peft_format.digest import digest_of, version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter

from tests.adapters import malicious, spoiling


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base_facts(spoiling.write_base(tmp_path_factory.mktemp("base") / "base"))


def own_folder(tmp_path: Path) -> SourcePolicy:
    """Allows the test's own folder."""
    return SourcePolicy(allowed=SourceList((str(tmp_path / "models"),)))


def intake_at(
    place: Path, registry: Registry, base: BaseFacts, policy: SourcePolicy, shared: SharedStore | None = None
) -> AdapterPipeline:
    """One server's pipeline, with its own store and staging area."""
    sources = Sources(place / "staging", policy)
    return AdapterPipeline(
        sources, Store(place / "store"), registry, base, AdapterLimits(max_rank=16), shared
    )


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return spoiling.write_adapter(tmp_path / "models" / "adapter")


@pytest.fixture
def intake(tmp_path: Path, registry: Registry, base: BaseFacts) -> AdapterPipeline:
    return intake_at(tmp_path / "one", registry, base, own_folder(tmp_path))


def packed(directory: Path) -> io.BytesIO:
    """A tar.gz of a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(directory, "acme")
    return buffer


def test_bytes_are_hashed_once_on_the_way_in(
    intake: AdapterPipeline, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store hashes the bytes as it copies them; validation takes its digest."""
    hashed = []

    def counting(config: bytes, weights: Iterable[bytes]) -> str:
        hashed.append(config)
        return digest_of(config, weights)

    for module in (digest, store, peft_adapter):
        monkeypatch.setattr(module, "digest_of", counting)
    intake.add("acme", str(adapter), actor="ann")
    assert len(hashed) == 1


def test_adapter_is_taken_in(intake: AdapterPipeline, registry: Registry, adapter: Path) -> None:
    """It is in the store, validated, and registered with what it is; twice is once."""
    record, info = intake.add("acme", str(adapter), actor="ann")
    assert (
        info.version
        == record.version
        == version_digest((adapter / CONFIG_FILE).read_bytes(), adapter / WEIGHTS_FILE)
    )
    assert (record.state, record.source, record.created_by) == (State.VALIDATED, str(adapter), "ann")
    assert record.rank == spoiling.RANK
    assert record.effective_parameters == info.effective_parameters > 0
    assert info.path.parent == intake._store.root
    assert intake.add("acme", str(adapter), actor="bob")[0] == record
    assert [event.action for event in registry.events()] == ["stage", "validate"]


def test_a_version_is_checked_once_and_its_copy_every_time(
    intake: AdapterPipeline, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its audit, its load and a rollback need was found at its intake; damage is found."""
    checked = []

    def counting(path: Path, *args: Any, **kwargs: Any) -> Adapter:
        checked.append(kwargs["version"])
        return validate_adapter(path, *args, **kwargs)

    monkeypatch.setattr(pipeline, "validate_adapter", counting)
    record, info = intake.add("acme", str(adapter), actor="ann")
    assert [intake.stored(record) for _ in range(3)] == [info] * 3
    assert checked == [record.version]
    other = intake.stored(replace(record, training={"seed": 7}))
    assert other == replace(info, training={"seed": 7})
    assert len(checked) == 2, "another record may state another base"
    weights = info.path / WEIGHTS_FILE
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert intake.stored(record) is None


def test_an_intake_is_one_transaction(intake: AdapterPipeline, registry: Registry, adapter: Path) -> None:
    """Staged and validated at once: no other server sees the one without the other."""
    before = registry.revision()
    intake.add("acme", str(adapter), actor="ann")
    assert registry.revision() == before + 1
    assert {event.revision for event in registry.events("acme")} == {before + 1}


def test_upload_is_the_same_version(intake: AdapterPipeline, adapter: Path) -> None:
    """The same bytes are the same version, uploaded or from a path."""
    record, _ = intake.add("acme", str(adapter), actor="ann")
    uploaded, _ = intake.add_upload("other", packed(adapter), actor="ann", filename="acme.tar.gz")
    assert uploaded.version == record.version
    assert uploaded.source == "upload:acme.tar.gz"


def test_known_version_stays_where_it_stands(
    intake: AdapterPipeline, registry: Registry, adapter: Path
) -> None:
    """Adding a quarantined version again does not free it."""
    record, _ = intake.add("acme", str(adapter), actor="ann")
    registry.move("acme", record.version, State.AUDITING, actor="gate")
    registry.move("acme", record.version, State.QUARANTINED, actor="gate", reason="it leaks")
    assert intake.add("acme", str(adapter), actor="ann")[0].state is State.QUARANTINED
    assert registry.adapter("acme").live_version is None


@pytest.mark.parametrize(
    "kind", ["NaN", "DoRA", "overlapping tensors", "pickle instead of safetensors", "wrong width"]
)
def test_refusal_is_an_event_and_nothing_else(
    kind: str, intake: AdapterPipeline, registry: Registry, adapter: Path
) -> None:
    """A refused adapter registers no name; an event records who tried what, and why it was refused."""
    reason, spoil = malicious.SPOILERS[kind]
    spoil(adapter)
    with pytest.raises(RefusedError) as caught:
        intake.add("acme", str(adapter), actor="mallory")
    assert caught.value.reason is reason
    assert registry.adapters() == ()
    (event,) = registry.events()
    assert (event.action, event.actor, event.name) == ("refuse", "mallory", "acme")
    assert event.detail == {"reason": reason.value, "message": caught.value.message, "source": str(adapter)}


def test_a_refusal_does_not_stick_to_the_same_bytes(intake: AdapterPipeline, adapter: Path) -> None:
    """A bad training record, which the digest leaves out, does not refuse the same adapter from others."""
    malicious.SPOILERS["training manifest is a list"][1](adapter)
    with pytest.raises(RefusedError):
        intake.add("acme", str(adapter), actor="mallory")
    (adapter / "lorecall-training.json").unlink()
    assert intake.add("acme", str(adapter), actor="ann")[0].state is State.VALIDATED


def test_each_name_has_the_training_record_that_came_with_it(
    intake: AdapterPipeline, registry: Registry, base: BaseFacts, adapter: Path, tmp_path: Path
) -> None:
    """Whoever sends the same bytes first says nothing about another's adapter, here or on another server."""
    versions = set()
    for name, seed in (("mallory", 666), ("acme", 1), ("globex", None)):
        (adapter / "lorecall-training.json").unlink(missing_ok=True)
        if seed is not None:
            spoiling.training(seed=seed, base_digest=spoiling.BASE_DIGEST)(adapter)
        record, info = intake.add(name, str(adapter), actor=name)
        assert info.training.get("seed") == record.training.get("seed") == seed
        versions.add(record.version)
    assert len(versions) == 1
    other = intake_at(
        tmp_path / "two", registry, base, SourcePolicy(allowed=SourceList((str(tmp_path / "models"),)))
    )
    spoiling.training(seed=2)(adapter)  # the source changed its record since
    for server in (intake, other):
        for name, seed in (("mallory", 666), ("acme", 1), ("globex", None)):
            again = server.materialise(registry.version(name, info.version))
            assert again.training.get("seed") == seed
            assert again.base_digest == ("" if seed is None else spoiling.BASE_DIGEST)


def test_a_base_that_a_record_states_binds_every_server(
    intake: AdapterPipeline, registry: Registry, base: BaseFacts, adapter: Path, tmp_path: Path
) -> None:
    """A server with another base of the same name does not load it, although the store holds no record."""
    spoiling.training(base_digest=spoiling.BASE_DIGEST)(adapter)
    record, _ = intake.add("acme", str(adapter), actor="ann")
    policy = SourcePolicy(allowed=SourceList((str(tmp_path / "models"),)))
    other = intake_at(tmp_path / "two", registry, replace(base, digest="cd" * 32), policy)
    with pytest.raises(RefusedError) as caught:
        other.materialise(record)
    assert caught.value.reason is Reason.WRONG_BASE


def test_sources_and_names_are_checked(intake: AdapterPipeline, registry: Registry) -> None:
    """A path outside the allowed roots is refused and recorded; a bad name is refused and not recorded."""
    with pytest.raises(RefusedError):
        intake.add("acme", "/etc", actor="mallory")
    with pytest.raises(NameRefusedError):
        intake.add("../acme", "/etc", actor="mallory")
    assert [event.detail["reason"] for event in registry.events()] == [Reason.SOURCE_NOT_ALLOWED.value]


def test_another_server_fetches_for_itself(
    intake: AdapterPipeline, registry: Registry, base: BaseFacts, adapter: Path, tmp_path: Path
) -> None:
    """A server without the bytes gets them from the source, and repairs its copy when it is damaged."""
    record, info = intake.add("acme", str(adapter), actor="ann")
    other = intake_at(tmp_path / "two", registry, base, own_folder(tmp_path))
    for _ in range(2):
        copy = other.materialise(record)
        assert copy.path != info.path
        assert copy.version == info.version
        (copy.path / WEIGHTS_FILE).chmod(0o644)
        (copy.path / WEIGHTS_FILE).write_bytes(b"damage")
    assert other.materialise(record).version == info.version


@pytest.fixture(params=["memory://shared", "", "file://"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> SharedStore:
    """A shared store in memory, one of fsspec's file systems; and a folder, by its path and with the scheme."""
    kind, name = str(request.param), uuid.uuid4().hex
    return SharedStore(f"{kind}{name}" if "memory" in kind else f"{kind}{tmp_path}/{name}")


def test_what_only_one_server_has_goes_to_the_shared_store(
    registry: Registry, base: BaseFacts, adapter: Path, shared: SharedStore, tmp_path: Path
) -> None:
    """An upload, and an adapter of a path that the other server lacks, are fetched from there, whole."""
    policy = own_folder(tmp_path)
    one = intake_at(tmp_path / "one", registry, base, policy, shared)
    uploaded, _ = one.add_upload("up", packed(adapter), actor="ann")
    spoiling.setting(lora_alpha=5)(adapter)
    local, _ = one.add("local", str(adapter), actor="ann")
    shutil.rmtree(adapter)
    other = intake_at(tmp_path / "two", registry, base, policy, shared)
    assert {other.materialise(record).version for record in (uploaded, local)} == {
        uploaded.version,
        local.version,
    }


def test_a_shared_store_that_cannot_be_written_refuses_the_adapter(
    registry: Registry, base: BaseFacts, adapter: Path, tmp_path: Path
) -> None:
    """Nothing is registered that other servers would miss; an unknown file system stops the start."""
    (tmp_path / "file").write_text("in the way")
    shared = SharedStore(f"file://{tmp_path}/file")
    one = intake_at(tmp_path / "one", registry, base, own_folder(tmp_path), shared)
    with pytest.raises(SourceRefusedError, match="LORECALL_SHARED"):
        one.add_upload("up", packed(adapter), actor="ann")
    assert registry.adapters() == ()
    with pytest.raises(SourceRefusedError, match="LORECALL_SHARED"):
        SharedStore("nowhere://shared")


def test_source_that_moved_on_is_noticed(
    intake: AdapterPipeline, registry: Registry, base: BaseFacts, adapter: Path, tmp_path: Path
) -> None:
    """Other bytes at the source are not taken for the registered version; nor is an upload elsewhere."""
    record, _ = intake.add("acme", str(adapter), actor="ann")
    uploaded, _ = intake.add_upload("other", packed(adapter), actor="ann")
    spoiling.setting(lora_alpha=5)(adapter)
    other = intake_at(tmp_path / "two", registry, base, own_folder(tmp_path))
    with pytest.raises(RefusedError, match="by now"):
        other.materialise(record)
    with pytest.raises(RefusedError, match="uploaded to another server"):
        other.materialise(uploaded)
    assert intake.materialise(record).version == record.version, "the first server has its own copy"


def test_collect_keeps_what_can_be_live(intake: AdapterPipeline, registry: Registry, adapter: Path) -> None:
    """Live versions, those to roll back to and new ones stay; others are deleted when they are old enough."""
    versions = []
    for alpha in (1, 2, 3, 4):
        spoiling.setting(lora_alpha=alpha)(adapter)
        record, _ = intake.add("acme", str(adapter), actor="ann")
        versions.append(record.version)
        if alpha < 4:
            registry.activate("acme", record.version, actor="ann")
    assert intake.collect() == (), "all are young"
    assert intake.collect(min_age_seconds=0) == (versions[0],)
    assert set(intake._store.versions()) == set(versions[1:])
    assert registry.rollback("acme", actor="ann").live_version == versions[1]
    registry.remove("acme", actor="ann")
    assert set(intake.collect(min_age_seconds=0)) == set(versions[1:])


def test_collect_forgets_what_the_registry_no_longer_keeps(
    intake: AdapterPipeline, registry: Registry, adapter: Path
) -> None:
    """Old events go when the collector runs, which is once an hour; young ones stay."""
    intake.add("acme", str(adapter), actor="ann")
    intake.collect()
    assert len(registry.events()) == 2
    registry._keep = timedelta(0)
    intake.collect()
    assert registry.events() == ()
    assert len(registry.versions("acme")) == 1


class Interrupted(Registry):
    """A registry that lets something happen once, just after the collector has read what is wanted."""

    def __init__(self, url: str, then: Callable[[], object]) -> None:
        super().__init__(url)
        self.then = then

    def wanted_versions(self) -> frozenset[str]:
        """The versions wanted before it happened."""
        found = super().wanted_versions()
        self.then()
        return found


def test_collect_spares_what_is_added_again_meanwhile(
    intake: AdapterPipeline,
    registry: Registry,
    registry_url: str,
    adapter: Path,
    base: BaseFacts,
    tmp_path: Path,
) -> None:
    """A version added again between the collector's look at the registry and its deletion keeps its bytes."""
    record, _ = intake.add("acme", str(adapter), actor="ann")
    registry.move("acme", record.version, State.RETIRED, actor="ann")
    os.utime(intake._store.get(record.version).path, (0, 0))
    policy = SourcePolicy(allowed=SourceList((str(tmp_path / "models"),)))
    interrupted = Interrupted(registry_url, lambda: intake.add("acme", str(adapter), actor="bob"))
    other = intake_at(tmp_path / "one", interrupted, base, policy)
    assert other.collect() == ()
    registry.activate("acme", record.version, actor="bob")
    assert intake.materialise(registry.version("acme", record.version)).version == record.version
    interrupted.close()


def test_collect_spares_what_a_server_loads_meanwhile(
    intake: AdapterPipeline,
    registry: Registry,
    registry_url: str,
    adapter: Path,
    base: BaseFacts,
    tmp_path: Path,
) -> None:
    """An old copy that this server is about to load, because another server made it live, is kept."""
    record, _ = intake.add("acme", str(adapter), actor="ann")
    registry.move("acme", record.version, State.RETIRED, actor="ann")
    path = intake._store.get(record.version).path
    os.utime(path, (0, 0))
    interrupted = Interrupted(registry_url, lambda: intake.materialise(record))
    other = intake_at(tmp_path / "one", interrupted, base, SourcePolicy())
    assert other.collect() == ()
    assert path.is_dir()
    interrupted.close()


def test_a_refusal_spares_what_another_server_accepts(
    registry: Registry, base: BaseFacts, adapter: Path, tmp_path: Path
) -> None:
    """Two servers with one store and different limits: one's refusal leaves what the other is taking in."""
    policy = SourcePolicy(allowed=SourceList((str(tmp_path / "models"),)))
    strict, lax = (intake_at(tmp_path / "one", registry, base, policy) for _ in range(2))
    strict._limits = AdapterLimits(max_rank=1)
    taken = lax._check(Fetched(adapter, ""), operator=True)[0]
    with pytest.raises(RefusedError):
        strict.add("acme", str(adapter), actor="ann")
    assert taken.path.is_dir(), "it was there before"
    lax._store.remove(taken.version)

    def meanwhile(stored: StoredVersion, training: dict[str, Any]) -> Adapter:
        lax._check(Fetched(adapter, ""), operator=True)
        return AdapterPipeline._validate(strict, stored, training)

    strict._validate = meanwhile  # type: ignore[method-assign]
    with pytest.raises(RefusedError):
        strict.add("acme", str(adapter), actor="ann")
    assert taken.path.is_dir(), "it was used since"


def test_store_copy_is_what_was_checked(intake: AdapterPipeline, adapter: Path) -> None:
    """What happens to the source afterwards changes nothing."""
    record, info = intake.add("acme", str(adapter), actor="ann")
    (adapter / CONFIG_FILE).write_text("changed")
    (adapter / WEIGHTS_FILE).unlink()
    assert intake.materialise(record) == info
