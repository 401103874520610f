"""Adds, swaps and removes adapters: in the registry, and in this server's engine."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from weakref import WeakValueDictionary

from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.core.tracing import span
from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.records import AdapterRecord, VersionRecord, shown_version
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.adapters.validation.names import check_name
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.scorers.batches import batches
from lorecall.audit.verdicts import Group
from lorecall.server.auth.request_context import manages, operates
from lorecall.server.executors import download, on_disk, take_in
from lorecall.server.lifecycle.engine_set import EngineSet, LoadedVersion
from lorecall.server.lifecycle.load_checks import LoadChecks
from lorecall.server.observability.metrics import AdapterSample, Metrics
from lorecall.server.observability.residency import CPU, GPU, Residency, ResidentAdapter

if TYPE_CHECKING:
    from lorecall.audit.jobs.stale import Staleness

logger = logging.getLogger("vllm.lorecall")


class Gate(Protocol):
    """Decides whether a validated version goes live; see `server/audits/admission.py`."""

    def check(self, snippets: dict[str, Any]) -> dict[Group, CandidateSet]:
        """Return the sets that an uploader sent; call it in a thread. Raises CandidateError."""
        ...

    async def admit(self, record: VersionRecord, own: Mapping[Group, CandidateSet]) -> None:
        """Queue the audit that lets a version go live or quarantines it."""
        ...


class AdapterUnavailableError(LorecallError):
    """A registered adapter that this server cannot load now."""

    status = 503
    code = "adapter_unavailable"


PAGE = 500
"""Names whose versions are read at once."""


class ControlPlane:
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
        self.registry = registry
        self.engine_set = engine_set
        self.gate: Gate | None = None
        self.staleness: Staleness | None = None
        self.load_checks: LoadChecks | None = None
        self.intake = intake
        self._base_names = base_names
        self._metrics = metrics
        self._adapters: dict[str, AdapterRecord] = {}
        self._versions: dict[str, VersionRecord] = {}
        self._tiers: dict[str, list[int]] = {"slots": [], "memory": []}
        self._engine_turn = asyncio.Lock()
        self._name_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._adding: set[str] = set()
        self._coming: set[str] = set()
        self._fetching: dict[tuple[str, str], asyncio.Task[Adapter]] = {}
        self._checking: set[asyncio.Task[None]] = set()

    def known(self, name: str) -> bool:
        """Whether a name has a live version, as far as this server knows."""
        record = self._adapters.get(name)
        return record is not None and record.live_version is not None

    def registered(self, name: str) -> bool:
        """Whether there is an adapter of a name, live or not, as far as this server knows."""
        return name in self._adapters

    def live_versions(self) -> dict[str, str]:
        """Return name to live version of every name that has one, as far as this server knows."""
        return {
            name: one.live_version
            for name, one in tuple(self._adapters.items())  # at once: threads ask, too
            if one.live_version is not None
        }

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
                return await self._remember(name, adapter)

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
                adapter = await asyncio.to_thread(self.registry.adapter, name)
                record = await self._remember(name, adapter)
            except AdapterNotFoundError:  # of either: it may be removed between the two
                self._adapters.pop(name, None)
                self._versions.pop(name, None)
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

    def _has_room(self, name: str) -> bool:
        """Whether the engine's memory holds this name beside those that it has and those on their way."""
        others = self.engine_set.live.keys() | self._coming - {name}
        return len(others) < self.engine_set.capacity.memory

    def _turn(self, name: str) -> asyncio.Lock:
        """Return the lock of a name's steps; it exists while somebody has it."""
        return self._name_turns.setdefault(name, asyncio.Lock())

    async def _files(self, record: VersionRecord) -> Adapter:
        """Return a version with its files in this server's store; whoever needs the same one meanwhile shares it.

        Raises:
            LorecallError: They cannot be fetched, or do not fit this server.
        """
        key = (record.name, record.version)
        if key not in self._fetching:
            self._fetching[key] = task = asyncio.create_task(self._fetch(record))
            task.add_done_callback(lambda _done: self._fetching.pop(key, None))
        return await asyncio.shield(self._fetching[key])

    async def _fetch(self, record: VersionRecord) -> Adapter:
        stored = await on_disk(self.intake.stored, record)
        return stored if stored is not None else await download(self.intake.materialise, record)

    async def note(self, adapters: Sequence[AdapterRecord]) -> list[str]:
        """Remember names that changed; return those that the engine may have to follow.

        The others are remembered a page at a time: a registry may have thousands that no engine holds.
        """
        room = self.engine_set.capacity.memory - len(self.engine_set.live.keys() | self._coming)
        follow, others = list[str](), list[AdapterRecord]()
        for one in adapters:
            busy = (
                one.name in self.engine_set.live or one.name in self._coming or one.name in self._name_turns
            )
            wanted = not one.removed and one.live_version is not None and (one.pinned or room > 0)
            room -= wanted and not busy
            if busy or wanted or (one.removed and one.name in self._adapters):
                follow.append(one.name)
            elif not one.removed:
                others.append(one)
        for page in batches(others, PAGE):
            versions = await asyncio.to_thread(self.registry.versions_of, [one.name for one in page], limit=1)
            for one in page:
                if one.name in versions:  # else it was removed meanwhile, which is a change of its own
                    self._know(one, versions[one.name])
        return follow

    async def _remember(self, name: str, adapter: AdapterRecord) -> VersionRecord:
        """Remember a name's record and version; return its live version, or the newest."""
        return self._know(adapter, await asyncio.to_thread(self.registry.versions, name, limit=1))

    def _know(self, adapter: AdapterRecord, versions: Sequence[VersionRecord]) -> VersionRecord:
        """Remember what was read of a name, unless something newer is remembered."""
        record = shown_version(adapter, versions)
        known = self._adapters.get(adapter.name)
        if known is None or known.revision <= adapter.revision:
            self._adapters[adapter.name], self._versions[adapter.name] = adapter, record
        return record

    async def refresh_tiers(self) -> None:
        """Ask the engine which adapters are in its slots and its memory, and count evictions."""
        now = await self.engine_set.tiers()
        before, self._tiers = self._tiers, now  # after the wait: two that ask at once count an eviction once
        ours = {loaded.id for loaded in self.engine_set.live.values()}
        for level, ids in before.items():
            lost = (set(ids) - set(self._tiers[level])) & ours
            self._metrics.evictions.labels(level).inc(len(lost))
        self._metrics.draining.set(self.engine_set.draining)
        came = set(self._tiers["memory"]) - set(before["memory"])
        if self.load_checks is not None and came:
            loaded = [one for one in self.engine_set.live.values() if one.id in came]
            task = asyncio.create_task(self._check_loads(self.load_checks, loaded))
            self._checking.add(task)
            task.add_done_callback(self._checking.discard)

    async def _check_loads(self, checks: LoadChecks, loaded: Sequence[LoadedVersion]) -> None:
        """Check versions that the engine has loaded; one that answers as another is loaded anew on demand."""
        for one in loaded:
            try:
                if await checks.differs(one):
                    # Not the engine's turn as well: a client that reads slowly may hold its lease for long.
                    async with self._turn(one.name):
                        await self.engine_set.expel(one)
            except Exception:  # vLLM raises whatever its engine raised
                if not self.engine_set.engine_is_gone:
                    logger.exception("%s was not checked after its load", one.lora_request.lora_name)

    def level(self, name: str) -> str:
        """Where an adapter's live version is: "slots", "memory" or "disk"."""
        loaded = self.engine_set.live.get(name)
        if loaded is None:
            return "disk"
        return next((level for level in ("slots", "memory") if loaded.id in self._tiers[level]), "disk")

    def samples(self) -> list[AdapterSample]:
        """Return all names as the metrics show them."""
        return [
            AdapterSample(name, version.state.value, self.level(name), adapter.pinned, version.rank)
            for name, adapter in sorted(self._adapters.items())
            if (version := self._versions.get(name)) is not None
        ]

    def residency(self) -> Residency:
        """Return what the engine holds, as routers are shown it."""
        levels = {"slots": GPU, "memory": CPU}
        adapters = [
            ResidentAdapter(name, levels[level], loaded.pinned, loaded.info.rank)
            for name, loaded in sorted(self.engine_set.live.items())
            if (level := self.level(name)) in levels
        ]
        slots, memory = (len(self._tiers[level]) for level in ("slots", "memory"))
        return Residency(self.engine_set.capacity.slots, slots, memory, adapters)
