"""What this server has of the registry's names: the records that it read last, and their files."""

import asyncio

from lorecall.adapters.intake.pipeline import AdapterPipeline
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.registry.records import AdapterRecord, VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.server.executors import download, on_disk


class KnownAdapters:
    """The names of a registry, each with its live version, or the newest.

    Args:
        registry: The registry, shared by all servers.
        intake: Fetches and stores the files.
    """

    def __init__(self, registry: Registry, intake: AdapterPipeline) -> None:
        self.registry = registry
        self.intake = intake
        self._fetching: dict[tuple[str, str], asyncio.Task[Adapter]] = {}
        self._adapters: dict[str, AdapterRecord] = {}
        self._versions: dict[str, VersionRecord] = {}
        self._changes = 0
        self._live: tuple[int, dict[str, str]] = (0, {})

    def known(self, name: str) -> bool:
        """Whether a name has a live version, as far as this server knows."""
        record = self._adapters.get(name)
        return record is not None and record.live_version is not None

    def registered(self, name: str) -> bool:
        """Whether there is an adapter of a name, live or not, as far as this server knows."""
        return name in self._adapters

    def live_versions(self) -> dict[str, str]:
        """Return name to live version of every name that has one, as far as this server knows; to be read only.

        It is the same object until a name changes, so to compare it with itself costs nothing.
        """
        changes = self._changes  # before the names are read: threads ask, too
        if changes != self._live[0]:
            names = {
                name: one.live_version
                for name, one in tuple(self._adapters.items())
                if one.live_version is not None
            }
            self._live = (changes, names)
        return self._live[1]

    async def _read(self, name: str) -> tuple[AdapterRecord, VersionRecord]:
        """Read a name's record, with its live version or the newest, and remember both.

        Raises:
            AdapterNotFoundError: There is no such name.
        """
        adapter, version = await asyncio.to_thread(self.registry.shown, name)
        self._know(adapter, version)
        return adapter, version

    def _know(self, adapter: AdapterRecord, version: VersionRecord) -> None:
        """Remember what was read of a name, unless something newer is remembered."""
        known = self._adapters.get(adapter.name)
        if known is None or known.revision <= adapter.revision:
            self._adapters[adapter.name], self._versions[adapter.name] = adapter, version
            self._changes += 1

    def _forget(self, name: str) -> None:
        self._adapters.pop(name, None)
        self._versions.pop(name, None)
        self._changes += 1

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
