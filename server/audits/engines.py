"""The engine of this server, as the audit service uses it."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.registry.tables import State
from lorecall.audit.jobs.store import ACTOR
from lorecall.audit.scorer import AdapterVersion, EngineInfo, Scorer
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Lease, LoadedVersion
from lorecall.server.scoring.engine_scorer import LoadedVersionScorer
from lorecall.server.scoring.score import EngineScoring

T = TypeVar("T")


@dataclass(frozen=True)
class LiveScorer(LoadedVersionScorer):
    """Scores through the version that was live when it was opened, and tells which version is live now.

    Attributes:
        live: The live version of each name.
    """

    live: dict[str, LoadedVersion] = dataclasses.field(default_factory=dict)

    def adapter(self, name: str) -> AdapterVersion:
        """Return the version that answers under the name now. Raises AdapterNotFoundError."""
        now = self.live.get(name)
        if now is None:
            raise AdapterNotFoundError(f"adapter {name!r} is no longer served", param="adapter")
        return AdapterVersion.of(name, now.info)


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """The engine of this server: `Engines` and `Admissions`. Call it from threads, never from the server's loop.

    Attributes:
        loop: The server's event loop.
        plane: This server's adapters.
        scoring: Teacher-forced scores through the engine.
        engine: Says what the engine is, with its ε.
    """

    loop: asyncio.AbstractEventLoop
    plane: ControlPlane
    scoring: EngineScoring
    engine: Callable[[], Coroutine[Any, Any, EngineInfo]]

    def adapter(self, name: str) -> AdapterVersion:
        """Return the live version of a name, loaded if need be. Raises AdapterNotFoundError."""
        return AdapterVersion.of(name, self._wait(self.plane.loaded(name)).info)

    @contextmanager
    def scorer(self, name: str) -> Iterator[Scorer]:
        """Open a scorer that holds the live version of a name."""
        lease = self._wait(self._hold(name))
        try:
            live = self.plane.engine_set.live
            yield LiveScorer(self.loop, self.scoring, self._wait(self.engine()), lease.loaded, live=live)
        finally:
            self.loop.call_soon_threadsafe(lease.release)

    @contextmanager
    def candidate(self, name: str, version: str) -> Iterator[Scorer]:
        """Open a scorer that holds a version which waits for its audit, loaded for that long."""
        lease = self._wait(self._hold_candidate(name, version))
        try:
            yield LoadedVersionScorer(self.loop, self.scoring, self._wait(self.engine()), lease.loaded)
        finally:
            self.loop.call_soon_threadsafe(lease.release)

    def activate(self, name: str, version: str, audit_id: str) -> None:
        """Make a version live, unless it no longer waits for its audit."""
        self._wait(self._activate(name, version, audit_id))

    async def _hold(self, name: str) -> Lease:
        return Lease(await self.plane.loaded(name))

    async def _hold_candidate(self, name: str, version: str) -> Lease:
        live = self.plane.engine_set.live.get(name)
        if live is not None and live.version == version:  # it went live before its audit was over
            return Lease(live)
        record = await asyncio.to_thread(self.plane.registry.version, name, version)
        loaded = await self.plane.candidate(record)
        lease = Lease(loaded)
        self.plane.engine_set.retire(loaded)  # it leaves after the lease, unless `activate` takes it back
        return lease

    async def _activate(self, name: str, version: str, audit_id: str) -> None:
        record = await asyncio.to_thread(self.plane.registry.version, name, version)
        if record.state is State.AUDITING:
            await self.plane.activate(record, actor=ACTOR, audit_id=audit_id)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()
