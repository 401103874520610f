"""The audit service's way to the engine of its own server."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.audit.scorer import AdapterVersion, EngineInfo, Scorer
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Lease, LoadedVersion
from lorecall.server.scoring.engine_scorer import LoadedVersionScorer
from lorecall.server.scoring.score import EngineScoring

T = TypeVar("T")


@dataclass(frozen=True)
class LiveScorer(LoadedVersionScorer):
    """Scores through the version that a name stood for when it was opened, and sees when the name moves.

    Attributes:
        live: What names stand for now.
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
    """The engine of this server; called from threads, never from the server's loop.

    Attributes:
        loop: The server's event loop.
        plane: This server's adapters.
        scoring: Teacher-forced scores through the engine.
        engine: Says what the engine is.
    """

    loop: asyncio.AbstractEventLoop
    plane: ControlPlane
    scoring: EngineScoring
    engine: Callable[[], EngineInfo]

    def adapter(self, name: str) -> AdapterVersion:
        """Return the live version of a name, loaded if need be. Raises AdapterNotFoundError."""
        return AdapterVersion.of(name, self._wait(self.plane.loaded(name)).info)

    @contextmanager
    def scorer(self, name: str) -> Iterator[Scorer]:
        """Open a scorer that holds the live version of a name."""
        lease = self._wait(self._hold(name))
        try:
            live = self.plane.engine_set.live
            yield LiveScorer(self.loop, self.scoring, self.engine(), lease.loaded, live=live)
        finally:
            self.loop.call_soon_threadsafe(lease.release)

    async def _hold(self, name: str) -> Lease:
        return Lease(await self.plane.loaded(name), None)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()
