"""A whole server for tests of the page: its engine is a small exact one, all else is real and answers HTTP."""

import asyncio
import copy
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.stale import Staleness, Terms
from lorecall.audit.scorer import AdapterVersion, Scorer
from lorecall.server.audits.wiring import AuditParts, make_audits
from lorecall.server.bench.processes.serving import free_port
from lorecall.server.lifecycle.follower import Follower
from lorecall.server.observability.metrics import AdapterLabels
from lorecall.server.settings import ServerSettings
from prometheus_client import CollectorRegistry

from tests.adapters import spoiling
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.server.counting_site import Site, make_site


class VersionScorer(TinyScorer):
    """Scores by what the live version of a name remembers."""

    live: AdapterVersion

    def adapter(self, name: str) -> AdapterVersion:
        """The version that answers under the name."""
        del name
        return self.live


@dataclass
class TinyEngines:
    """The exact engine for whatever the registry says is live.

    Attributes:
        registry: Knows the versions.
        memories: What the version of a rank remembers; other ranks remember nothing.
        hold: Cleared, no text is scored.
    """

    registry: Registry
    memories: Mapping[int, Memory]
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.tiny = VersionScorer({})
        self.hold.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Answer nothing until `hold` is set, at the latest by the end of the block, also after a failure."""
        self.hold.clear()
        try:
            yield
        finally:
            self.hold.set()

    def adapter(self, name: str) -> AdapterVersion:
        """The live version of a name."""
        version = self.registry.adapter(name).live_version
        if version is None:
            raise AdapterNotFoundError(f"nothing is live under {name!r}", param="adapter")
        known = self.registry.version(name, version)
        return AdapterVersion(name, version, known.rank, known.effective_parameters)

    @contextmanager
    def scorer(self, name: str) -> Iterator[Scorer]:
        """A scorer of the live version of a name."""
        one = copy.copy(self.tiny)
        one.live = self.adapter(name)
        one.adapters = {name: self.memories.get(one.live.rank, Memory(()))}
        one.before_score = lambda: (self.hold.wait(60), None)[1]
        yield one


@dataclass
class PageSite:
    """A running server.

    Attributes:
        site: Its parts.
        engines: Its engine.
        url: Where it answers.
    """

    site: Site
    engines: TinyEngines
    url: str

    @property
    def registry(self) -> Registry:
        """Its registry."""
        return self.site.registry

    @property
    def secrets(self) -> dict[str, str]:
        """The secret of each caller's key."""
        return self.site.secrets

    def http(self, caller: str = "admin") -> httpx.Client:
        """A client with a caller's key."""
        key = {"Authorization": f"Bearer {self.secrets[caller]}"}
        return httpx.Client(base_url=self.url, headers=key, timeout=60)

    def folder(self, rank: int) -> str:
        """The folder of an adapter on the server; each rank is another version."""
        path = self.site.work / f"rank-{rank}"
        return str(path if path.exists() else spoiling.write_adapter(path, rank=rank))

    def add(self, name: str, rank: int) -> dict[str, Any]:
        """Add an adapter, or a version of it, as an archive."""
        packed = shutil.make_archive(str(self.site.work / f"packed-{rank}"), "zip", self.folder(rank))
        with self.http() as client:
            answer = client.post(f"/v1/adapters/{name}/archive", content=Path(packed).read_bytes())
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def audit(self, name: str, file: str = "candidates.jsonl", **order: Any) -> dict[str, Any]:
        """Have an adapter audited, and return the audit when it is over; the candidates are sent as a file."""
        lines = "\n".join(map(json.dumps, order.pop("candidates"))).encode()
        form = {field: json.dumps(value) for field, value in order.items()}
        with self.http() as client:
            sent = {"candidates": (file, lines)}
            answer = client.post("/v1/audits", data={"adapter": name, **form}, files=sent)
            assert answer.status_code == 202, answer.text
            path = f"/v1/audits/{answer.json()['id']}"
            while (found := client.get(path).json())["state"] in ("queued", "running"):
                time.sleep(0.05)
        return dict(found)


@contextmanager
def page_site(work: Path, memories: Mapping[int, Memory], *, gated: bool = False) -> Iterator[PageSite]:
    """Run a server with a key of each scope; its audits are done two snippets at a time.

    Where it is gated, the audits that admit versions wait: no worker here loads what is not live.
    """
    with contextmanager(make_site)(work) as site:
        engines = TinyEngines(site.registry, memories)
        settings = ServerSettings(store=work / "store", audit_batch=2)
        series = CollectorRegistry()
        parts = make_audits(site.registry, engines, settings, series, AdapterLabels(9), keyed=True)
        site.app.state.lorecall_audits = site.service = parts.service
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(site.app, port=port, log_level="warning", lifespan="off"))
        thread = threading.Thread(
            target=lambda: asyncio.run(_serve(site, engines, parts, server, gated=gated))
        )
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            yield PageSite(site, engines, f"http://127.0.0.1:{port}")
        finally:
            engines.hold.set()
            server.should_exit = True
            thread.join()
            parts.worker.close()


async def _serve(
    site: Site, engines: TinyEngines, parts: AuditParts, server: uvicorn.Server, *, gated: bool
) -> None:
    plane = await site.plane(gated=gated)
    terms = Terms.of(engines.tiny.engine, None)
    plane.staleness = Staleness(LastAudits(site.registry.database), lambda: terms)
    parts.worker.start()
    keys = site.app.state.lorecall.keys
    following = asyncio.create_task(Follower(plane, site.metrics, 0.2, keys.reload).run())
    await server.serve()
    following.cancel()
