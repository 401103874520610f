"""The adapters of one server: from the registry into the engine, and every change of them by this server."""

import asyncio
import logging
import time
from typing import Any, BinaryIO, Protocol

from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.records import AdapterRecord, VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.adapters.validation.names import check_name
from lorecall.server.lifecycle.engine_set import EngineSet, LoadedVersion
from lorecall.server.observability.metrics import AdapterSample, Metrics

logger = logging.getLogger("vllm.lorecall")


class Gate(Protocol):
    """What stands between a validated version and its going live; see `admission.py`."""

    def check(self, snippets: dict[str, Any]) -> None:
        """Raise UsageError if an audit would have nothing to ask for."""
        ...

    async def admit(self, record: VersionRecord, snippets: dict[str, Any]) -> None:
        """Put a version under audit, which lets it go live or not."""
        ...


class AdapterUnavailableError(LorecallError):
    """A registered adapter that this server cannot load now."""

    status = 503
    code = "adapter_unavailable"


class ControlPlane:
    """Adds, swaps and removes adapters while the server runs; one change of the engine's set at a time.

    Args:
        registry: What is registered, shared by all servers.
        intake: The way in.
        engine_set: What the engine holds.
        base_names: Names that no adapter may have.
        metrics: What is counted.
    """

    def __init__(
        self,
        registry: Registry,
        intake: AdapterPipeline,
        engine_set: EngineSet,
        base_names: frozenset[str],
        metrics: Metrics,
    ) -> None:
        self.registry = registry
        self.engine_set = engine_set
        self.gate: Gate | None = None
        self.intake = intake
        self._base_names = base_names
        self._metrics = metrics
        self._adapters: dict[str, AdapterRecord] = {}
        self._versions: dict[str, VersionRecord] = {}
        self._tiers: dict[str, list[int]] = {"slots": [], "memory": []}
        self._change = asyncio.Lock()

    def known(self, name: str) -> bool:
        """Whether a name has a live version, as far as this server knows."""
        record = self._adapters.get(name)
        return record is not None and record.live_version is not None

    async def add(
        self,
        name: str,
        source: str | BinaryIO,
        *,
        actor: str,
        pin: bool = False,
        candidates: dict[str, Any] | None = None,
    ) -> VersionRecord:
        """Bring in a version and let the name move to it, at once or after the audit that admits it.

        The same bytes under the same name change nothing.

        Args:
            name: The name.
            source: An address, or the file of an uploaded archive.
            actor: Who does it.
            pin: Whether the engine is to keep it in memory.
            candidates: What the gate's audit asks for beside the operator's own set.

        Raises:
            AdapterError: If the adapter cannot be served here, with the reason.
        """
        if pin:
            self.engine_set.check_pins(name)
        if self.gate is not None:
            self.gate.check(candidates or {})
        try:
            check_name(name, self._base_names)
            take = self.intake.add if isinstance(source, str) else self.intake.add_upload
            record, info = await asyncio.to_thread(take, name, source, actor=actor)  # type: ignore[arg-type]
        except RefusedError as error:
            self._metrics.refusals.labels(error.reason.value).inc()
            raise
        started = time.perf_counter()
        if pin:
            await asyncio.to_thread(self.registry.pin, name, pinned=True, actor=actor)
        if record.state is State.LIVE:
            await self.follow(name)
        elif self.gate is not None:
            await self.gate.admit(record, candidates or {})
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
            AdapterError: The engine refuses it; the version is retired.
            ConflictError: The version is in no state to go live.
        """
        name = record.name
        async with self._change:
            with self._metrics.counted_swap():
                if info is None:
                    info = await asyncio.to_thread(self.intake.materialise, record)
                try:
                    loaded = await self.engine_set.load(name, info)
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
                try:
                    adapter = await asyncio.to_thread(
                        self.registry.activate, name, record.version, actor=actor, audit_id=audit_id
                    )
                    await self.engine_set.point(loaded, pinned=adapter.pinned)
                except LorecallError:
                    if self.engine_set.live.get(name) is not loaded:
                        self.engine_set.retire(loaded)
                    raise
            return await self._note(name, adapter)

    async def override(self, name: str, version: str, *, reason: str, actor: str) -> None:
        """Let a quarantined version go live on an operator's word, which is recorded."""
        await asyncio.to_thread(self.registry.activate, name, version, actor=actor, override=reason)
        await self.follow(name)

    async def rollback(self, name: str, *, actor: str) -> None:
        """Move a name back to the version before; twice is forth again."""
        started = time.perf_counter()
        await asyncio.to_thread(self.registry.rollback, name, actor=actor)
        await self.follow(name)
        self._metrics.swap_seconds.observe(time.perf_counter() - started)

    async def pin(self, name: str, *, pinned: bool, actor: str) -> None:
        """Keep an adapter in the engine's memory, or no longer."""
        loaded = await self.loaded(name)
        await self.engine_set.pin(loaded, pinned=pinned)
        await asyncio.to_thread(self.registry.pin, name, pinned=pinned, actor=actor)
        await self.follow(name)

    async def remove(self, name: str, *, actor: str) -> None:
        """Take a name out of service, and its version out of the engine once it is idle."""
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
                raise AdapterUnavailableError(f"adapter {name!r} cannot be loaded: {error}") from error
        if name not in self.engine_set.live:
            raise AdapterNotFoundError(f"adapter {name!r} does not exist", param="model")
        return self.engine_set.live[name]

    async def follow(self, name: str, *, load: bool = True) -> None:
        """Make the engine agree with the registry on one name.

        Args:
            name: The name.
            load: Whether to load a live version that the engine does not have; on demand otherwise.

        Raises:
            LorecallError: The version cannot be had or loaded; what was live here stays.
        """
        async with self._change:
            try:
                adapter = await asyncio.to_thread(self.registry.adapter, name)
            except AdapterNotFoundError:
                self._adapters.pop(name, None)
                self._versions.pop(name, None)
                self.engine_set.drop(name)
                return
            record = await self._note(name, adapter)
            held = self.engine_set.live.get(name)
            if adapter.live_version is None:
                self.engine_set.drop(name)
            elif held is not None and held.version == adapter.live_version:
                if held.pinned != adapter.pinned:
                    await self.engine_set.pin(held, pinned=adapter.pinned)
            elif held is not None or load or adapter.pinned:
                with self._metrics.counted_swap():
                    info = await asyncio.to_thread(self.intake.materialise, record)
                    loaded = await self.engine_set.load(name, info)
                    await self.engine_set.point(loaded, pinned=adapter.pinned)

    async def candidate(self, record: VersionRecord) -> LoadedVersion:
        """Load a version that no name points at, for its audit; retire it afterwards unless it goes live."""
        async with self._change:
            info = await asyncio.to_thread(self.intake.materialise, record)
            return await self.engine_set.load(record.name, info)

    async def _note(self, name: str, adapter: AdapterRecord) -> VersionRecord:
        """Remember what the registry says of a name; return its live version, or the newest."""
        versions = await asyncio.to_thread(self.registry.versions, name)
        record = next((one for one in versions if one.version == adapter.live_version), versions[0])
        self._adapters[name], self._versions[name] = adapter, record
        return record

    async def refresh_tiers(self) -> None:
        """Ask the engine where the adapters sit, and count who lost a place unasked."""
        before, self._tiers = self._tiers, await self.engine_set.tiers()
        ours = {loaded.id for loaded in self.engine_set.live.values()}
        for level, ids in before.items():
            lost = (set(ids) - set(self._tiers[level])) & ours
            self._metrics.evictions.labels(level).inc(len(lost))
        self._metrics.draining.set(self.engine_set.draining)

    def level(self, name: str) -> str:
        """Where an adapter's live version sits: "slots", "memory" or "disk"."""
        loaded = self.engine_set.live.get(name)
        if loaded is None:
            return "disk"
        return next((level for level in ("slots", "memory") if loaded.id in self._tiers[level]), "disk")

    def samples(self) -> list[AdapterSample]:
        """Return every name as the metrics show it."""
        return [
            AdapterSample(name, version.state.value, self.level(name), adapter.pinned, version.rank)
            for name, adapter in sorted(self._adapters.items())
            if (version := self._versions.get(name)) is not None
        ]
