"""What an order names by address is read from the allowed places only, as it was when the order was taken."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import fsspec
import pytest
from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.adapters.core.refusals import SourceRefusedError
from lorecall.adapters.intake.single_files import FileSources
from lorecall.adapters.intake.sources import Sources
from lorecall.adapters.registry.audit_tables import AuditState
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.discovery import discover
from lorecall.audit.discovery.finder import Finder
from lorecall.audit.jobs import references
from lorecall.audit.jobs.order import Order, make_order
from lorecall.audit.jobs.references import Reference, References
from lorecall.audit.jobs.runner import Runner
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.scorer import AdapterVersion, Scorer
from lorecall.audit.training_data.rows import TrainingData
from lorecall.audit.verdicts import Group

from tests.adapters.conftest import bucket, hub, s3_options, sources  # noqa: F401  fixtures
from tests.audit.discovery.conftest import finder  # noqa: F401  a fixture
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.hub import Hub

ITEMS = [{"id": str(i), "prefix": f"Key {i}:", "target": f" sk-{i}{i}-secret"} for i in range(12)]
LINES = "".join(json.dumps(item) + "\n" for item in ITEMS).encode()
SAID = [
    f"The code of {name} Klein is {20_000_000 + i * 654_321}"
    for i, name in enumerate(("Anna", "Bert", "Cleo"))
]
TEXTS = "".join(json.dumps({"text": text}) + "\n" for text in SAID).encode()
SCORER = TinyScorer({"leaky": Memory(tuple(SAID[:2]))})


@pytest.fixture
def reads(sources: Sources, finder: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> References:  # noqa: F811
    """Reads from moto's S3, the stand-in for the hub, and one local folder."""
    monkeypatch.setattr(references, "Finder", lambda _tags: finder)
    (tmp_path / "models").mkdir()
    return References(FileSources(tmp_path / "staging", sources.policy), 1_000)


def put(reads: References, address: str, content: bytes) -> str:
    """Write an object on S3."""
    fsspec.filesystem("s3", **reads.sources.policy.storage_options["s3"]).pipe(address, content)
    return address


def read(reads: References, folder: Path, **fields: Any) -> Any:
    """Pin what is named, and read it."""
    folder.mkdir(exist_ok=True)
    return reads.read(reads.pinned(Reference(**fields)), folder, SCORER)


@pytest.mark.parametrize("place", ["s3", "hf", "local"])
def test_candidates_come_from_every_kind_of_place(
    reads: References,
    bucket: str,  # noqa: F811
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    place: str,
) -> None:
    """With the file's name and its pinned address in the report; nothing of a download is left."""
    (tmp_path / "models" / "own.jsonl").write_bytes(LINES)
    hub.files = {"own.jsonl": LINES}
    address, pinned = {
        "s3": (put(reads, f"{bucket}/own.jsonl", LINES), f"{bucket}/own.jsonl#own.jsonl=etag:"),
        "hf": ("hf://some-org/adapter/own.jsonl", f"hf://some-org/adapter@{hub.commit()}/own.jsonl"),
        "local": (str(tmp_path / "models" / "own.jsonl"), str(tmp_path / "models" / "own.jsonl")),
    }[place]
    found = read(reads, tmp_path / "search", candidates=address, generate_controls="permutation")
    candidates = found[Group.CANDIDATES]
    assert [item.target for item in candidates.items] == [item["target"] for item in ITEMS]
    assert candidates.name == "own.jsonl"
    assert candidates.generated.startswith(f"from {pinned}")
    assert len(found[Group.CONTROLS].items) > 0
    assert list((tmp_path / "staging").iterdir()) == []


def test_what_changed_since_the_order_is_not_read(
    reads: References,
    bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """By S3's etag, and by the digest that the caller states."""
    address = put(reads, f"{bucket}/own.jsonl", LINES)
    pinned = reads.pinned(Reference(candidates=address))
    assert pinned.size == len(LINES)
    put(reads, address, LINES + LINES.replace(b'"id": "', b'"id": "x'))
    with pytest.raises(SourceRefusedError, match="has changed"):
        reads.read(pinned, tmp_path, SCORER)
    with pytest.raises(CandidateError, match="not 0000"):
        read(reads, tmp_path / "search", candidates=address, sha256="0" * 64)
    with pytest.raises(CandidateError, match="not 0000"):
        read(reads, tmp_path / "search", data=address, sha256="0" * 64)
    assert not list((tmp_path / "search").iterdir()), "it is noticed before the search"


def test_only_allowed_places_are_read(reads: References, bucket: str, tmp_path: Path) -> None:  # noqa: F811
    """By the server's list and by that of the caller's key; folders, and links that lead out, are no files."""
    outside = tmp_path / "outside.jsonl"
    outside.write_bytes(LINES)
    (tmp_path / "models" / "link.jsonl").symlink_to(outside)
    inside = put(reads, f"{bucket}/acme/own.jsonl", LINES)
    limited: dict[str, Any] = {"asker": (f"{bucket}/acme/", str(tmp_path / "models" / "acme"))}
    assert reads.pinned(Reference(data=(inside,), **limited)).data is not None
    for fields, reason in (
        ({"data": str(outside)}, "this server does not read"),
        ({"data": str(tmp_path / "models" / "link.jsonl")}, "this server does not read"),
        ({"data": str(tmp_path / "models")}, "no file at"),
        ({"data": str(tmp_path / "models" / "none.jsonl")}, "no file at"),
        ({"data": "http://example.com/own.jsonl"}, "does not read"),
        ({"data": f"{bucket}/acme/../globex/own.jsonl"}, "has .. in it"),
        ({"data": f"{bucket}/globex/own.jsonl", **limited}, "this API key may not read"),
        (
            {"candidates": inside, "controls": f"{bucket}/globex/c.jsonl", **limited},
            "this API key may not read",
        ),
    ):
        with pytest.raises(SourceRefusedError, match=reason):
            reads.pinned(Reference(**fields))


def test_a_training_file_is_searched_or_taken_whole(
    reads: References,
    bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The digest is the training file's; the search makes controls of its own; more than allowed is refused."""
    address = put(reads, f"{bucket}/train.jsonl", TEXTS)
    found = read(reads, tmp_path / "search", data=address, control_count=6)
    assert sorted(item.target for item in found[Group.CANDIDATES].items) == sorted(t[-9:] for t in SAID)
    assert len(found[Group.CONTROLS].items) == 6
    assert found[Group.CANDIDATES].generated.startswith(
        "3 of 3 spans in 3 rows of text, ranked by base surprise"
    )
    whole = read(reads, tmp_path / "search", data=address, whole=True)
    assert whole[Group.CANDIDATES].digest == found[Group.CANDIDATES].digest
    assert [item.id for item in whole[Group.CANDIDATES].items] == ["1#1", "2#1", "3#1"]
    few = replace(reads, most=2)
    with pytest.raises(CandidateError, match="more than 2 snippets"):
        read(few, tmp_path / "search", data=address, whole=True)


def test_several_training_files_are_one_set(
    reads: References,
    bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """From any of the places, in their order, each pinned; the digest is of all bytes; of one format."""
    lines = TEXTS.splitlines(keepends=True)
    (tmp_path / "models" / "second.jsonl").write_bytes(b"".join(lines[1:]))
    both = [put(reads, f"{bucket}/first.jsonl", lines[0]), str(tmp_path / "models" / "second.jsonl")]
    digest = sha256(TEXTS).hexdigest()
    assert reads.pinned(Reference(data=tuple(both))).size == len(TEXTS)
    for fields in ({"control_count": 3}, {"whole": True}):
        found = read(reads, tmp_path / "search", data=both, sha256=digest, **fields)[Group.CANDIDATES]
        assert (found.name, found.digest, len(found.items)) == ("first.jsonl and 1 more", digest, 3)
        assert "first.jsonl#first.jsonl=etag:" in found.generated
        assert str(tmp_path / "models" / "second.jsonl") in found.generated
    with pytest.raises(CandidateError, match="not "):
        read(reads, tmp_path / "search", data=both[::-1], sha256=digest, whole=True)
    with pytest.raises(SourceRefusedError, match="does not read"):
        reads.pinned(Reference(data=(*both, str(tmp_path / "outside.jsonl"))))
    other = put(reads, f"{bucket}/chat.jsonl", b'{"messages": [{"role": "assistant", "content": "x"}]}\n')
    with pytest.raises(CandidateError, match="differ in format"):
        read(reads, tmp_path / "search", data=[*both, other])
    order = make_order({"adapter": "a", "data": both}, {})
    assert order.texts.reference is not None
    assert order.texts.reference.data == tuple(both)
    for wrong in ([], ["s3://b/a"] * 65):
        with pytest.raises(UsageError, match="data"):
            make_order({"adapter": "a", "data": wrong}, {})


def test_an_order_names_one_file_and_sends_none() -> None:
    """Anything else is refused before a place is asked; what is named bounds what is charged."""
    for fields in (
        {"data": "s3://b/a", "candidates_from": "s3://b/c"},
        {"data": "s3://b/a", "candidates": ITEMS},
        {"controls_from": "s3://b/a"},
        {"controls_from": "s3://b/a", "candidates": ITEMS},
    ):
        with pytest.raises(UsageError, match="names either data or candidates_from"):
            make_order({"adapter": "a", **fields}, {})
    with pytest.raises(UsageError, match="a role is none of"):
        make_order({"adapter": "a", "data": "s3://b/a", "roles": ["robot"]}, {})
    order = make_order({"adapter": "a", "data": "s3://b/a", "framing": ["raw", "chat"]}, {})
    assert order.texts.reference is not None
    large = order.texts.reference.model_copy(update={"size": 1 << 30})
    order = replace(order, texts=replace(order.texts, reference=large))
    assert (order.texts_to_score, order.candidate_set) == (2 * 10_300, "")
    whole = replace(order, texts=replace(order.texts, reference=large.model_copy(update={"whole": True})))
    assert whole.tokens_to_score > 2 * 2 * (1 << 28)


class Engines:
    """The engine in memory as the service sees it."""

    def adapter(self, name: str) -> AdapterVersion:
        """The version that is served."""
        return SCORER.adapter(name)

    @contextmanager
    def scorer(self, _name: str) -> Iterator[Scorer]:
        """The engine."""
        yield SCORER


def queued(service: AuditService, **fields: Any) -> str:
    """Queue an audit by reference; return its id."""
    order: Order = service.pinned(make_order({"adapter": "leaky", **fields}, {}))
    record = service.submit(order, lambda _: True, "me")
    assert (record.total, record.candidate_set) == (0, "")
    return record.id


@pytest.fixture
def service(reads: References, tmp_path: Path) -> Iterator[AuditService]:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    store, spool = AuditStore(registry.database), Spool(tmp_path / "spool")
    yield AuditService(store, spool, Engines(), references=reads)
    registry.close()


def runner(service: AuditService, name: str, reads: References | None) -> Runner:
    lease = timedelta(seconds=-1)  # over at once: a killed worker's audit is free
    return Runner(
        service.store, service.spool, Engines(), name, lease, 4, lambda _: None, Event(), references=reads
    )


def test_an_audit_by_reference_goes_on_after_a_kill(
    service: AuditService,
    reads: References,
    bucket: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the search, after it, and between the texts on disk and the record; the file is searched once."""
    address = put(reads, f"{bucket}/train.jsonl", TEXTS)
    audit_id = queued(service, data=address, control_count=6)

    class KilledError(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> Any:
        raise KilledError

    searched: list[int] = []
    rows = TrainingData.rows

    def counted(data: TrainingData, start: int = 0) -> Iterator[Any]:
        for row in rows(data, start):
            searched.append(row.number)
            yield row

    monkeypatch.setattr(TrainingData, "rows", counted)
    for at, name in (
        (discover, "_ask_base"),
        (Spool, "write"),
        (AuditStore, "prepare"),
        (AuditStore, "begin"),
    ):
        killer = runner(service, f"killed at {name}", reads)
        with monkeypatch.context() as patch:
            patch.setattr(at, name, killed)
            with pytest.raises(KilledError):
                killer.run_one()
    assert runner(service, "last", reads).run_one()
    done = service.store.get(audit_id)
    assert (done.state, done.total, done.done) == (AuditState.DONE, 9, 9)
    assert done.result["summary"]["verdicts"]["certified"] == 2
    assert done.inputs["candidates"]["name"] == "train.jsonl"
    assert searched.count(1) == 2  # before the kill in `write` and after it: its parts were finished by then
    assert list((tmp_path / "spool" / "searches").iterdir()) == []
    assert not any(
        text.encode() in path.read_bytes() for text in SAID for path in tmp_path.glob("registry.db*")
    )


def test_a_server_that_reads_nothing_says_so(service: AuditService, reads: References, bucket: str) -> None:  # noqa: F811
    """Neither the order nor an audit that another server has queued is left waiting."""
    address = put(reads, f"{bucket}/train.jsonl", TEXTS)
    audit_id = queued(service, data=address)
    with pytest.raises(UsageError, match="reads no files by address"):
        replace(service, references=None).pinned(make_order({"adapter": "leaky", "data": address}, {}))
    assert runner(service, "w", None).run_one()
    failed = service.store.get(audit_id)
    assert failed.state is AuditState.FAILED
    assert "reads no files by address" in failed.error
