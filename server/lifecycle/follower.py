"""Keeps this server's adapters equal to the registry's, at its start and while other servers change them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.executors import on_disk
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.observability.metrics import Metrics

logger = logging.getLogger("vllm.lorecall")

RETRY_S = 1.0
"""Seconds until what could not be followed is tried again; twice as long after each further failure."""
MOST_RETRY_S, MOST_KEYS_RETRY_S = 60.0, 5.0
"""The longest time between two tries: of a name, and of the keys, since a revoked one must end."""
LOOK_S = 15.0
"""Seconds between two looks at the engine's slots and memory."""
COLLECT_S = 3600.0
"""Seconds between two deletions of stored versions that nothing can make live any more."""


@dataclass(slots=True)
class Due:
    """What is not followed yet.

    Attributes:
        at: When it is tried next, in seconds of the monotonic clock.
        failures: How often it failed.
        most: The longest time between two tries, in seconds.
    """

    at: float = 0.0
    failures: int = 0
    most: float = MOST_RETRY_S

    def wait(self) -> float:
        """Return the seconds from one more failure to the next try."""
        return min(RETRY_S * (1 << min(self.failures, 16)), self.most)


class Follower:
    """Polls the registry's revision, and follows every name that changed, and the keys.

    What changed is remembered until it was followed, so the revision may be stored at once: each name, and the
    keys, are tried again by themselves, and none of them waits for another.

    Args:
        plane: This server's adapters.
        metrics: Shows whether the registry answers, and what is not followed.
        interval: Seconds between two polls.
        reload_keys: Called in a thread when the registry has changed in any way, keys included.
    """

    def __init__(
        self, plane: ControlPlane, metrics: Metrics, interval: float, reload_keys: Callable[[], None]
    ) -> None:
        self._plane = plane
        self._metrics = metrics
        self._interval = interval
        self._reload_keys = reload_keys
        self._revision = 0
        self._names: dict[str, Due] = {}
        self._keys: Due | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._collected = time.monotonic()
        self._looked = float("-inf")

    async def run(self) -> None:
        """Follow until cancelled, or until the engine is gone."""
        while not self._plane.engine_set.engine_is_gone:
            await asyncio.sleep(self._interval)
            for step in (self.catch_up, self.look, self.collect):
                try:
                    await step()
                except LorecallError as error:
                    logger.warning("the registry cannot be followed: %s", error)
                except Exception:  # the loop must survive, and the other steps have their turn
                    if not self._plane.engine_set.engine_is_gone:
                        logger.exception("following the registry failed")

    async def catch_up(self) -> None:
        """Read what changed since the last poll, reload the keys, and begin to follow the names that are due.

        Raises:
            RegistryUnavailableError: The registry does not answer; what was due before is tried nevertheless.
        """
        try:
            await self._read_changes()
            self._metrics.registry_up.set(1)
        except LorecallError:
            self._metrics.registry_up.set(0)
            raise
        finally:
            now = time.monotonic()
            if self._keys is not None and self._keys.at <= now:
                await self._follow_keys(self._keys)
            for name, due in self._names.items():
                if due.at <= now and name not in self._running:
                    self._running[name] = asyncio.create_task(self._follow(name, due))
            self._show()

    async def settled(self) -> None:
        """Wait until every name that `catch_up` began to follow was tried."""
        await asyncio.gather(*self._running.values())

    async def look(self) -> None:
        """Ask the engine where its adapters sit, once every `LOOK_S`; `/metrics` and `/v1/adapters` ask as well.

        Each question is a message to every worker, for which a GPU's steps wait.
        """
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            await self._plane.refresh_tiers()

    async def collect(self) -> None:
        """Delete stored versions that nothing needs, once every `COLLECT_S`."""
        if time.monotonic() - self._collected >= COLLECT_S:
            self._collected = time.monotonic()
            deleted = await on_disk(self._plane.intake.collect)
            if deleted:
                logger.info("deleted %d stored versions that nothing can make live any more", len(deleted))

    async def _read_changes(self) -> None:
        registry = self._plane.registry
        revision = await asyncio.to_thread(registry.revision)
        if revision != self._revision:
            changes = await asyncio.to_thread(registry.changes, self._revision)
            waiting = [one.name for one in changes.adapters if one.name in self._names]
            self._names |= {name: Due() for name in (*waiting, *await self._plane.note(changes.adapters))}
            self._keys = Due(most=MOST_KEYS_RETRY_S)
            self._revision = changes.revision

    async def _follow_keys(self, due: Due) -> None:
        if await self._tried("the API keys", due, asyncio.to_thread(self._reload_keys)):
            self._keys = None

    async def _follow(self, name: str, due: Due) -> None:
        try:
            done = await self._tried(f"adapter {name}", due, self._plane.follow(name, load=False))
            if done and self._names.get(name) is due:  # else it changed again meanwhile, which is due at once
                del self._names[name]
        finally:
            del self._running[name]
            self._show()

    async def _tried(self, what: str, due: Due, work: Awaitable[None]) -> bool:
        """Try to follow something; return whether that worked, and say in `due` when it is tried again."""
        wait = due.wait()
        try:
            await work
        except LorecallError as error:
            logger.warning("%s cannot be brought up to date, next try in %g s: %s", what, wait, error)
        except Exception:  # whatever it is, the others are followed, and this again
            logger.exception("%s cannot be brought up to date, next try in %g s", what, wait)
        else:
            return True
        due.at, due.failures = time.monotonic() + wait, due.failures + 1
        self._metrics.follow_failures.inc()
        return False

    def _show(self) -> None:
        """Show how much failed and is not followed yet."""
        failing = sum(due.failures > 0 for due in (*self._names.values(), *filter(None, [self._keys])))
        self._metrics.not_followed.set(failing)
