"""Adds, swaps and removes adapters: in the registry, and in this server's engine."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.core.tracing import span
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.records import VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.adapters.validation.names import check_name
from lorecall.server.auth.request_context import manages, operates
from lorecall.server.executors import on_disk, take_in
from lorecall.server.lifecycle.engine_set import EngineSet, LoadedVersion
from lorecall.server.lifecycle.residents import Residents
from lorecall.server.observability.metrics import Metrics

if TYPE_CHECKING:
    from lorecall.audit.jobs.stale import Staleness
    from lorecall.server.lifecycle.gate import Gate

logger = logging.getLogger("vllm.lorecall")


class AdapterUnavailableError(LorecallError):
    """A registered adapter that this server cannot load now."""

    status = 503
    code = "adapter_unavailable"


class ControlPlane(Residents):
    """Adds, swaps and removes adapters while the server runs.

    The steps of one name take turns, and so do those of the engine: loads, and names that move. Downloads and
    hashes wait for neither, and nothing waits for them but the request that needs their files.

    Args:
        registry: The registry, shared by all servers.
        intake: Fetches, stores, validates and registers adapters.
        engine_set: The versions that the engine holds.
        base_names: Names that no adapter may have.
        metrics: Counts swaps, refusals and evictions.
    """

    def __init__(
        self,
        registry: Registry,
        intake: AdapterPipeline,
        engine_set: EngineSet,
        base_names: frozenset[str],
        metrics: Metrics,
    ) -> None:
        super().__init__(registry, intake, engine_set, metrics)
        self.gate: Gate | None = None
        self.staleness: Staleness | None = None
        self._base_names = base_names
        self._engine_turn = asyncio.Lock()
        self._adding: set[str] = set()

    async def add(
        self,
        name: str,
        source: str | BinaryIO,
        *,
        actor: str,
        pin: bool = False,
        candidates: dict[str, Any] | None = None,
        asker: SourceList | None = None,
        our_own: bool = False,
        reason: str = "",
    ) -> VersionRecord:
        """Add a version and point the name at it, at once or after the audit that admits it.

        The same bytes under the same name change nothing.

        Args:
            name: The name.
            source: An address, or the file of an uploaded archive.
            actor: Who does it.
            pin: Whether the engine is to keep it in memory.
            candidates: Snippets of the uploader's; the admitting audit judges them apart from the operator's.
            asker: The sources that the caller may use; None for all that the server reads.
            our_own: Whether the operator named it at the start, who may use any source.
            reason: Why it is added, which its event keeps.

        Raises:
            AdapterError: The adapter cannot be served here, with the reason.
            ConflictError: A version of that name is being added now.
        """
        if name in self._adding:
            raise ConflictError(
                f"a version of {name[:128]!r} is being added by another request",
                hint="wait until that request is answered: GET /v1/adapters shows what it added",
            )
        self._adding.add(name)
        try:
            if isinstance(source, str):
                take = partial(self.intake.add, name, source, asker=asker, our_own=our_own)
            else:
                take = partial(self.intake.add_upload, name, source)
            take = partial(take, actor=actor, operator=operates(), reason=reason)
            return await self._add(name, take, actor=actor, pin=pin, candidates=candidates or {})
        finally:
            self._adding.discard(name)

    async def _add(
        self,
        name: str,
        take: Callable[[], tuple[VersionRecord, Adapter]],
        *,
        actor: str,
        pin: bool,
        candidates: dict[str, Any],
    ) -> VersionRecord:
        if pin:
            self.engine_set.check_pins(name)
        own = await on_disk(self.gate.check, candidates) if self.gate is not None else {}
        try:
            check_name(name, self._base_names)
            record, info = await take_in(take)
        except RefusedError as error:
            self._metrics.refusals.labels(error.reason.value).inc()
            raise
        started = time.perf_counter()
        if pin:
            await asyncio.to_thread(self.registry.pin, name, pinned=True, actor=actor)
        if record.state is State.LIVE:
            await self.follow(name)
        elif self.gate is not None:
            await self.gate.admit(record, own)
            record = await asyncio.to_thread(self.registry.version, name, record.version)
        elif record.state is State.VALIDATED:
            record = await self.activate(record, info, actor=actor)
            self._metrics.swap_seconds.observe(time.perf_counter() - started)
        else:
            raise ConflictError(
                f"version {record.version[:12]} of {name} is {record.state}: {record.reason}",
                hint="override it with a reason, or add another version",
            )
        return record

    async def activate(
        self, record: VersionRecord, info: Adapter | None = None, *, actor: str, audit_id: str = ""
    ) -> VersionRecord:
        """Load a version, make it the live one in the registry, and point its name at it.

        Raises:
            AdapterError: The engine refuses it, or it answers otherwise than before; the version is retired.
            ConflictError: The version is in no state to go live.
        """
        name = record.name
        with self._metrics.counted_swap(), span("swap", adapter=name, version=record.version):
            info = info or await self._files(record)
            async with self._turn(name):
                try:
                    async with self._engine_turn:
                        loaded = await self._load(name, info)
                except LorecallError as error:
                    await asyncio.to_thread(
                        self.registry.move,
                        name,
                        record.version,
                        State.RETIRED,
                        actor=actor,
                        reason=error.message,
                    )
                    raise
                with self.engine_set.leaving_on_error(loaded):
                    adapter = await asyncio.to_thread(
                        self.registry.activate, name, record.version, actor=actor, audit_id=audit_id
                    )
                    async with self._engine_turn:
                        await self.engine_set.point(loaded, pinned=adapter.pinned)
                return (await self._read(name))[1]

    async def override(self, name: str, version: str, *, reason: str, actor: str) -> None:
        """Let a quarantined version go live for a stated reason, which is recorded."""
        await asyncio.to_thread(self.registry.activate, name, version, actor=actor, override=reason)
        await self.follow(name)

    async def rollback(self, name: str, *, actor: str, reason: str = "") -> None:
        """Move a name back to the version before; a second rollback undoes the first."""
        started = time.perf_counter()
        await asyncio.to_thread(self.registry.rollback, name, actor=actor, reason=reason)
        await self.follow(name)
        self._metrics.swap_seconds.observe(time.perf_counter() - started)

    async def pin(self, name: str, *, pinned: bool, actor: str, reason: str = "") -> None:
        """Keep an adapter in the engine's memory, or no longer."""
        loaded = await self.loaded(name)
        async with self._engine_turn:
            await self.engine_set.pin(loaded, pinned=pinned)
        await asyncio.to_thread(self.registry.pin, name, pinned=pinned, actor=actor, reason=reason)
        await self.follow(name)

    async def remove(self, name: str, *, actor: str) -> None:
        """Remove a name, and its version from the engine once no request runs on it."""
        await asyncio.to_thread(self.registry.remove, name, actor=actor)
        await self.follow(name)

    async def loaded(self, name: str) -> LoadedVersion:
        """Return the live version of a name, loaded now if the engine does not have it yet.

        Raises:
            AdapterNotFoundError: There is no such adapter, or no live version of it.
            AdapterUnavailableError: It cannot be loaded here.
        """
        if not self.known(name):
            raise AdapterNotFoundError(f"adapter {name!r} does not exist", param="model")
        if name not in self.engine_set.live:
            try:
                await self.follow(name)
            except LorecallError as error:
                logger.warning("adapter %s cannot be loaded: %s", name, error)
                why = f": {error}" if manages() else "; its operator's log says why"
                raise AdapterUnavailableError(f"adapter {name!r} cannot be loaded{why}") from error
        if name not in self.engine_set.live:
            raise AdapterNotFoundError(f"adapter {name!r} does not exist", param="model")
        return self.engine_set.live[name]

    async def follow(self, name: str, *, load: bool = True) -> None:
        """Make the engine agree with the registry on one name.

        Args:
            name: The name.
            load: Whether to load a live version that the engine does not have; otherwise only while it has room,
                and on demand after that.

        Raises:
            LorecallError: The version cannot be fetched or loaded; the one that was live here stays.
        """
        info: Adapter | None = None
        try:
            while (missing := await self._follow(name, info, load=load)) is not None:
                self._coming.add(name)
                with self._metrics.counted_swap():
                    info = await self._files(missing)
        finally:
            self._coming.discard(name)

    async def _follow(self, name: str, info: Adapter | None, *, load: bool) -> VersionRecord | None:
        """Make the engine agree with the registry, if these are the right version's files.

        Returns:
            The version whose files are needed first; None if the engine agrees now.
        """
        async with self._turn(name):
            try:
                adapter, record = await self._read(name)
            except AdapterNotFoundError:
                self._forget(name)
                self.engine_set.drop(name)
                return None
            if adapter.live_version is None:
                self.engine_set.drop(name)
                return None
            async with self._engine_turn:
                held = self.engine_set.live.get(name)
                if held is not None and held.version == adapter.live_version:
                    if held.pinned != adapter.pinned:
                        await self.engine_set.pin(held, pinned=adapter.pinned)
                    return None
                if held is None and not load and not adapter.pinned and not self._has_room(name):
                    return None
                if info is None or info.version != adapter.live_version:
                    return record
                with self._metrics.counted_swap():
                    loaded = await self._load(name, info)
                    with self.engine_set.leaving_on_error(loaded):
                        await self.engine_set.point(loaded, pinned=adapter.pinned)
                return None

    async def candidate(self, record: VersionRecord) -> LoadedVersion:
        """Load a version that no name points at, for its audit; retire it afterwards unless it goes live."""
        info = await self._files(record)
        async with self._turn(record.name), self._engine_turn:
            return await self._load(record.name, info)

    async def _load(self, name: str, info: Adapter) -> LoadedVersion:
        """Load a version, whatever for, and check it if it answered otherwise after a load before this one.

        Raises:
            AdapterError: The engine refuses it, or it still answers otherwise.
        """
        loaded = await self.engine_set.load(name, info)
        if self.load_checks is not None:
            with self.engine_set.leaving_on_error(loaded):
                await self.load_checks.confirm(loaded)
        return loaded
