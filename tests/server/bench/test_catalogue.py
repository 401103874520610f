"""The comparison of many adapters with few and with stock vLLM, over servers that stand in for the real ones."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.intake.store import Store
from lorecall.adapters.registry.registry import Registry
from lorecall.server.bench import report
from lorecall.server.bench.catalogue import comparing
from lorecall.server.bench.catalogue.comparing import FEW, MANY, STOCK
from lorecall.server.bench.catalogue.filling import link_adapters, name_of
from lorecall.server.bench.catalogue.watching import at_rest, cpu_seconds, memory_mib
from vllm.plugins.lora_resolvers.filesystem_resolver import FilesystemResolver

from tests.adapters import spoiling
from tests.tiny import build_tiny_base

METRICS = {"requests_per_s": ("requests per second", "more"), "hit_ttft_p50_ms": ("first token", "less")}


class Run:
    """One run's result."""

    def __init__(self, **values: float) -> None:
        self.values, self.errors = values, ("one failed",)


class StandIn:
    """A process that does nothing, in the place of a server."""

    started: list[tuple[Path, dict[str, str], bool]] = []  # noqa: RUF012  (emptied by the fixture)

    def __init__(
        self, base: Path, log: Path, flags: Sequence[str], *, stock: bool = False, environ: dict[str, str]
    ) -> None:
        del base, flags
        self.started.append((log, environ, stock))
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self.pid = self._process.pid
        self.asked: list[str] = []
        self.http = self

    def get(self, route: str) -> Any:
        """Note what is asked for."""
        self.asked.append(route)
        return self

    def post(self, _route: str, json: dict[str, Any]) -> Any:
        """Note which model is asked."""
        return self.get(json["model"])

    def raise_for_status(self) -> None:
        """All is well."""

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A base, and stand-ins for the servers on it."""
    monkeypatch.setattr(comparing, "HttpServer", StandIn)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    StandIn.started.clear()
    yield build_tiny_base(tmp_path / "base")
    StandIn.started.clear()


def test_the_servers_have_what_is_compared(base: Path, tmp_path: Path) -> None:
    """Ours have stores and registries as if each adapter had been added; the stock one has the folders."""
    work = tmp_path / "work"
    with comparing.catalogue_servers(base, work, (40, 4, 60), 2, [], {"A": "1"}) as found:
        assert list(found) == [MANY, FEW, STOCK]
        for name, count, registered in ((MANY, 40, 60), (FEW, 4, 4)):
            registry = Registry(f"sqlite:///{found[name].database}")
            live = {one.name: one.live_version for one in registry.adapters()}
            registry.close()
            assert len(live) == registered == found[name].facts["names registered"]
            assert found[name].names == [name_of(number) for number in range(count)]
            store = Store(work / name / "store")
            assert {store.verify(str(live[one])).version for one in found[name].names} == {*store.versions()}
            assert len(store.versions()) == count
        runs = {name: lambda: Run(requests_per_s=2.0, hit_ttft_p50_ms=3.0) for name in (MANY, FEW)}
        runs[STOCK] = lambda: Run(requests_per_s=1.0)
        measured = comparing.run_rounds(
            found, 2, 0.01, runs, [name_of(number) for number in (3, 7, 20, 30, 39)]
        )
        stand_ins: dict[str, Any] = {name: one.server for name, one in found.items()}
        used = {name: [one for one in server.asked if "-" in one] for name, server in stand_ins.items()}
        assert found[MANY].facts["database writes at rest"] == 0
        scenario = {
            "name": "catalogue",
            "description": "What it is for.",
            "adapters": {"count": 40, "rank": 2, "slots": 2},
            "traffic": {"requests": 1, "input_tokens": 2, "output_tokens": 3, "concurrency": 4},
            "catalogue": {"beside": 4, "listed": 60},
            "engine": ["--flag"],
        }
        machine = report.machine()
        page = comparing.write_catalogue(
            tmp_path / "out", scenario, METRICS, found, measured, "lorecall loadtest compare", machine
        ).read_text()
    (_, ours, _), _, (_, theirs, stock) = StandIn.started
    assert ours == {"A": "1", "LORECALL_STORE": str(work / MANY / "store")}
    assert stock
    assert used[MANY] == used[STOCK] == [name_of(number) for number in (3, 7, 20, 30, 39)] * 2
    assert used[FEW] == [name_of(number) for number in range(4)] * 2  # it has no more
    resolver = FilesystemResolver(theirs["VLLM_LORA_RESOLVER_CACHE_DIR"])
    assert asyncio.run(resolver.resolve_lora(str(base), name_of(39)))  # vLLM asks with what `--model` says
    assert "| requests per second | 2 | 2 | 1.000 | 1.000 to 1.000 | 1 | 2.000 | 2.000 to 2.000 |" in page
    assert "| first token | 3 | 3 | 1.000 | 1.000 to 1.000 | no |  |  |" in page
    assert "| names registered | 60 | 4 | no |" in page
    assert "- stock: one failed" in page
    body = json.loads((tmp_path / "out" / "catalogue.json").read_text())
    assert len(body["rounds"]) == 2
    assert body["facts"][STOCK].keys() >= {"start, s", "memory after traffic, MiB", "at rest, % of a core"}


def test_each_linked_adapter_is_a_version_of_its_own(tmp_path: Path) -> None:
    """And of those that share weights none takes the disk's room twice."""
    made = [spoiling.write_adapter(tmp_path / str(rank), rank=rank) for rank in (1, 2)]
    entries = link_adapters(made, tmp_path / "linked", 9, 2)
    assert len({one.version for one in entries}) == 9
    files = {(one.source / "adapter_model.safetensors").stat().st_ino for one in entries}
    assert len(files) == 2


def test_a_server_at_rest_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time on the processor, its memory, and every commit to its database."""
    database = tmp_path / "registry.db"
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (x)")
    turns = iter(range(10))

    def sleep(_seconds: float) -> None:
        if next(turns) in (2, 5):
            writer.execute("INSERT INTO t VALUES (1)")

    monkeypatch.setattr(time, "sleep", sleep)
    found = at_rest(os.getpgrp(), 1.0, database)
    writer.close()
    assert found["database writes at rest"] == 2
    assert memory_mib(os.getpgrp()) > 1
    before = cpu_seconds(os.getpgrp())
    while cpu_seconds(os.getpgrp()) == before:  # the clock has steps of a hundredth of a second
        pass
