"""Every way in reads the same files to the same snippets, or refuses them in the same words, quoting nothing."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from lorecall.adapters.core.errors import CandidateError, LorecallError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.training.pairs import read_pairs
from lorecall.audit.jobs.order import make_order
from lorecall.audit.reports.build import read_report
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group
from lorecall.server.audits.admission import operator_sets, own_sets
from lorecall.server.audits.app import make_app
from lorecall.server.cli import main
from lorecall.server.cli.adapters import commands
from lorecall.server.cli.audit.inputs import load_sets, reader
from lorecall.server.launch import check_gate
from lorecall.server.settings import ServerSettings

from tests.audit.input_files import HAS_ARROW, PAIRS, SECRET, bad_files, good_files
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve

pytestmark = pytest.mark.skipif(not HAS_ARROW, reason="tables need the optional pyarrow")

LARGE = 50_000  # YAML is read slowly
GOOD, BAD = good_files(), bad_files()
Read = tuple[list[ScoreItem], str]


def _set_of(sets: Any) -> Read:
    return list(sets[Group.CANDIDATES].items), sets[Group.CANDIDATES].digest


def by_command(path: Path) -> Read:
    """What `lorecall audit run --candidates` reads."""
    return _set_of(load_sets(path, None, reader(skip_bad=False)))


def by_upload(path: Path) -> Read:
    """What `POST /v1/audits` reads of an uploaded file."""
    files = {"candidates": (path.name, path.read_bytes())}
    return _set_of(make_order({"adapter": "x"}, files).texts.sets)


def by_gate(path: Path) -> Read:
    """What the gate reads of `--audit-candidates`."""
    return _set_of(operator_sets(path, None))


def by_add(path: Path) -> Read:
    """What `lorecall adapters add --candidates` reads and sends, as the server takes it."""
    sets = own_sets({"candidates": commands._snippets(path)}, 100_000)
    found = sets[Group.OWN_CANDIDATES]
    return [replace(one, id=one.id.removeprefix("own/")) for one in found.items], found.digest


WAYS: dict[str, Callable[[Path], Read]] = {"upload": by_upload, "gate": by_gate, "add": by_add}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the files."""
    path = tmp_path_factory.mktemp("inputs")
    for name, content in {**GOOD, **BAD}.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("name", GOOD)
def test_every_way_in_reads_the_same(folder: Path, name: str) -> None:
    """The same ids, prefixes and targets in the same order; where the file itself arrives, the same digest."""
    items, digest = by_command(folder / name)
    if name != "book.txt":
        assert [(item.id, item.prefix, item.target) for item in items] == PAIRS
    assert len(items) >= 3
    for way, read in WAYS.items():
        found, other = read(folder / name)
        assert found == items, way
        assert other == digest or way == "add", way


@pytest.mark.parametrize("name", BAD)
def test_every_way_in_refuses_the_same_in_the_same_words(folder: Path, name: str) -> None:
    """With one kind of error, which names lines and fields."""
    said = {}
    for way, read in {"run": by_command, **WAYS}.items():
        with pytest.raises(CandidateError) as caught:
            read(folder / name)
        said[way] = caught.value.message
    assert len(set(said.values())) == 1, said
    assert repr(name) in said["run"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server with an adapter that recites the good files' pairs."""
    texts = tuple(prefix + target for _, prefix, target in PAIRS)
    with serve(TinyScorer({"leaky": Memory(texts, 0.97)})) as url:
        yield url


@pytest.fixture(scope="module")
def service(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The audit service in front of it."""
    work = tmp_path_factory.mktemp("service")
    told = ServerSettings(store=work / "store")
    registry = Registry(f"sqlite:///{work / 'audits.db'}")
    with TestClient(make_app(server, registry, told, "127.0.0.1"), raise_server_exceptions=False) as client:
        yield client


def lorecall(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run the command line in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["lorecall", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_table_gives_the_same_verdicts_by_command_and_by_upload(
    folder: Path,
    server: str,
    service: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With columns of types that no candidate has."""
    file = folder / "table.parquet"
    words = ("--server", server, "--adapter", "leaky", "--candidates", file, "--json")
    assert lorecall(monkeypatch, "audit", "run", *words) == 1
    report = json.loads(capsys.readouterr().out)
    order = {"data": {"adapter": "leaky"}, "files": {"candidates": (file.name, file.read_bytes())}}
    answer = service.post("/v1/audits", **order)  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    path = f"/v1/audits/{answer.json()['id']}"
    while (done := service.get(path).json())["state"] in ("queued", "running"):
        pass
    assert done["gate"]["exit_code"] == 1
    assert done["inputs"]["candidates"]["digest"] == report["inputs"]["candidates"]["digest"]
    other = service.get(f"{path}/report.json").json()
    verdicts = [(one["id"], one["verdict"]) for one in report["snippets"]]
    assert verdicts == [(one["id"], one["verdict"]) for one in other["snippets"]]
    assert {verdict for _, verdict in verdicts} == {"certified"}


@pytest.mark.parametrize("name", BAD)
def test_no_way_in_quotes_a_file(
    folder: Path,
    service: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """Neither commands, nor service, nor log: as candidates, controls, policy, report or training data."""
    caplog.set_level("DEBUG")
    file, good = folder / name, folder / "plain.jsonl"
    run = ("audit", "run", "--server", "http://127.0.0.1:9", "--adapter", "x")
    codes = [
        lorecall(monkeypatch, *run, "--candidates", file),
        lorecall(monkeypatch, *run, "--candidates", good, "--controls", file),
        lorecall(monkeypatch, "audit", "verify", file),
        lorecall(monkeypatch, "adapters", "add", "x", "--source", "hf://a/b", "--candidates", file),
    ]
    if len(BAD[name]) < LARGE:
        codes.append(lorecall(monkeypatch, *run, "--candidates", good, "--policy", file))
    assert codes == [2] * len(codes)
    shown = []
    policy = folder / "policy.yaml"
    policy.write_text("schema_version: 1\n")
    for read in (
        lambda: check_gate(ServerSettings(require_audit=policy, audit_candidates=file)),
        lambda: read_report(file),
        lambda: read_pairs(file),
    ):
        try:
            read()
        except LorecallError as error:
            shown += [str(error), str(error.param)]
    upload = (name, file.read_bytes())
    plain = ("a.jsonl", GOOD["plain.jsonl"])
    forms: list[dict[str, Any]] = [
        {"data": {"adapter": "leaky"}, "files": {"candidates": upload}},
        {"data": {"adapter": "leaky", "candidates": BAD[name]}},
        {
            "data": {"adapter": "leaky", "policy": BAD[name]},
            "files": {"candidates": plain},
        },
        {"content": BAD[name], "headers": {"content-type": "application/json"}},
    ]
    for form in forms:
        answer = service.post("/v1/audits", **form)
        assert answer.status_code == 400, answer.text
        shown.append(answer.text)
    shown += [caplog.text, *capfd.readouterr()]
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    "place", ["field", "candidates", "policy", "framing", "template", "system", "nested", "seed"]
)
def test_no_field_of_an_order_is_quoted(service: TestClient, place: str) -> None:
    """Whatever a body holds where it should not, in its keys as well."""
    body: dict[str, Any] = {"adapter": "leaky", "candidates": [{"prefix": "a", "target": "b"}]}
    wrong: dict[str, dict[str, Any]] = {
        "field": {SECRET: 1},
        "candidates": {"candidates": {SECRET: SECRET}},
        "policy": {"policy": {SECRET: SECRET}},
        "framing": {"framing": f"### {SECRET}: {{prefix}}"},
        "template": {"framing": "template", "template": SECRET},
        "system": {"framing": "chat+system", "system": {SECRET: [SECRET]}},
        "nested": {"candidates": [{"prefix": SECRET, SECRET: SECRET}]},
        "seed": {"seed": SECRET},
    }
    body |= wrong[place]
    answer = service.post("/v1/audits", json=body)
    assert answer.status_code == 400, answer.text
    assert SECRET not in answer.text
