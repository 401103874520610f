"""Keeps this server's adapters equal to the registry's, at its start and while other servers change them."""

import asyncio
import logging
import time
from collections.abc import Callable

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.observability.metrics import Metrics

logger = logging.getLogger("vllm.lorecall")

RETRY_S = 10.0
"""Seconds until a version that could not be loaded is tried again."""
COLLECT_S = 3600.0
"""Seconds between two deletions of stored versions that nothing can make live any more."""


class Follower:
    """Polls the registry's revision, and follows every name that changed.

    Args:
        plane: This server's adapters.
        metrics: Shows whether the registry answers.
        interval: Seconds between two polls.
        on_change: Called in a thread when the registry has changed in any way, keys included.
    """

    def __init__(
        self, plane: ControlPlane, metrics: Metrics, interval: float, on_change: Callable[[], None]
    ) -> None:
        self._plane = plane
        self._metrics = metrics
        self._interval = interval
        self._on_change = on_change
        self._revision = 0
        self._retry_at: dict[str, float] = {}
        self._collected = time.monotonic()

    async def run(self) -> None:
        """Follow until cancelled, or until the engine is gone."""
        while not self._plane.engine_set.engine_is_gone:
            await asyncio.sleep(self._interval)
            try:
                await self.catch_up()
                await self._plane.refresh_tiers()
                await self.collect()
                self._metrics.registry_up.set(1)
            except LorecallError as error:
                self._metrics.registry_up.set(0)
                logger.warning("the registry cannot be followed: %s", error)
            except Exception:  # the loop must survive; the traceback is logged
                if not self._plane.engine_set.engine_is_gone:
                    logger.exception("following the registry failed")

    async def catch_up(self) -> None:
        """Follow the names that changed since the last poll, and those that failed and are due again."""
        registry = self._plane.registry
        revision = await asyncio.to_thread(registry.revision)
        names = [name for name, when in self._retry_at.items() if time.monotonic() >= when]
        if revision != self._revision:
            changes = await asyncio.to_thread(registry.changes, self._revision)
            names += [adapter.name for adapter in changes.adapters]
            self._revision = changes.revision
            await asyncio.to_thread(self._on_change)
        for name in dict.fromkeys(names):
            await self._follow(name)

    async def collect(self) -> None:
        """Delete stored versions that nothing needs, once every `COLLECT_S`."""
        if time.monotonic() - self._collected >= COLLECT_S:
            self._collected = time.monotonic()
            deleted = await asyncio.to_thread(self._plane.intake.collect)
            if deleted:
                logger.info("deleted %d stored versions that nothing can make live any more", len(deleted))

    async def _follow(self, name: str) -> None:
        engine_set = self._plane.engine_set
        try:
            await self._plane.follow(name, load=len(engine_set.live) < engine_set.capacity.memory)
            self._retry_at.pop(name, None)
        except LorecallError as error:
            self._retry_at[name] = time.monotonic() + RETRY_S
            logger.warning("adapter %s cannot be brought up to date: %s", name, error)
