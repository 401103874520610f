"""Fetch, store, validate and register an adapter; loading is the engine's job."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.adapters.core.refusals import FileRefusedError, Reason, RefusedError, SourceRefusedError
from lorecall.adapters.intake.shared_store import SharedStore
from lorecall.adapters.intake.sources import Fetched, Sources
from lorecall.adapters.intake.store import Store, StoredVersion
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.peft_format.companions import read_companions
from lorecall.adapters.peft_format.training_record import read_training
from lorecall.adapters.registry.records import VersionRecord
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import BaseFacts
from lorecall.adapters.validation.companion_checks import RENDERED, check_companions
from lorecall.adapters.validation.names import check_name
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter

UPLOAD = "upload:"
OTHER_TEMPLATE = (
    "not used: the chat template that it was added with again; to change it, remove the name and add it anew"
)
ALL_THE_BASES = "this server renders all chats with the base's"
NOT_RENDERED = f"not used: the chat template that it was added with; {ALL_THE_BASES}"
CHECKED = 256
"""Versions whose facts are remembered, so that an audit's load, a swap and a rollback check them once in all."""
Templates = Literal["operator", "all", "none"]


class AdapterPipeline:
    """Fetch, store, validate and register an adapter; loading is the engine's job.

    One server has one pipeline, which is safe for threads. Several servers may share the registry, the store, or
    both.

    Args:
        sources: Fetches from the places that this server may read.
        store: Keeps the bytes.
        registry: Keeps names and versions.
        base: The base that this server serves.
        limits: Which adapters its engine accepts.
        shared: Gets a copy of every version, which other servers fetch; None where they go back to its source.
        templates: Whose chat templates are used: of adapters that the operator adds, of all, or of none.
    """

    def __init__(
        self,
        sources: Sources,
        store: Store,
        registry: Registry,
        base: BaseFacts,
        limits: AdapterLimits,
        shared: SharedStore | None = None,
        templates: Templates = "operator",
    ) -> None:
        self._sources = sources
        self._store = store
        self._registry = registry
        self._base = base
        self._limits = limits
        self._shared = shared
        self._templates = templates
        self._checked = lru_cache(maxsize=CHECKED)(self._check_files)

    def add(
        self,
        name: str,
        source: str,
        *,
        actor: str,
        asker: SourceList | None = None,
        our_own: bool = False,
        operator: bool = False,
        reason: str = "",
    ) -> tuple[VersionRecord, Adapter]:
        """Add a version from a source. The registry keeps the source's address at its present commit or version.

        Args:
            name: The name.
            source: The address; see `Sources.fetched`.
            actor: Who does it.
            asker: The sources that the caller may use; None for all that the server reads.
            our_own: Whether the operator named it, who may use any.
            operator: Whether the operator adds it, whose chat templates are trusted.
            reason: Why it is added, which its event keeps.

        Returns:
            The version's record, in the state `validated` if it is new to the name and in its present state
            otherwise; and the adapter, whose path in the store is what an engine loads.

        Raises:
            RefusedError: The source or its adapter is refused; this is also recorded as an event.
            StoreFullError: The disk has too little room.
            RegistryUnavailableError: The registry did not answer.
        """
        with (
            self._recorded(name, source, actor),
            self._sources.fetched(source, asker, our_own=our_own) as fetched,
        ):
            stored, adapter = self._check(fetched, operator=operator or our_own)
            self._share(stored)
        return self._register(name, stored, adapter, fetched.address, actor, reason)

    def add_upload(
        self,
        name: str,
        archive: BinaryIO,
        *,
        actor: str,
        filename: str = "",
        operator: bool = False,
        reason: str = "",
    ) -> tuple[VersionRecord, Adapter]:
        """Add a version from an uploaded archive; otherwise like `add`."""
        source = UPLOAD + filename
        with self._recorded(name, source, actor), self._sources.uploaded(archive, source) as fetched:
            stored, adapter = self._check(fetched, operator=operator)
            self._share(stored)
        return self._register(name, stored, adapter, source, actor, reason)

    def stored(self, record: VersionRecord) -> Adapter | None:
        """Return a registered version whose undamaged copy this server's store has; None if it must be fetched.

        Raises:
            RefusedError: It does not fit this server.
        """
        try:
            stored = self._store.verify(record.version)
        except (AdapterNotFoundError, FileRefusedError):
            return None
        return self._registered(stored, record)

    def materialise(self, record: VersionRecord) -> Adapter:
        """Make sure that this server's store has an undamaged copy of a registered version; fetch it if not.

        Raises:
            RefusedError: The source cannot be read, holds other bytes now, or does not fit this server.
            StoreFullError: The disk has too little room.
        """
        return self.stored(record) or self._registered(self._fetch_again(record), record)

    def served(self, record: VersionRecord) -> VersionRecord:
        """Return a version as this server serves it: without a chat template of its own, where none is used here.

        The template may have been taken before the setting, or by another server of the registry.
        """
        if self._templates != "none" or not record.chat_template:
            return record
        remarks = [one for one in record.remarks if not one.startswith(RENDERED)]
        return replace(record, chat_template="", remarks=[*remarks, NOT_RENDERED])

    def stop(self) -> None:
        """End every download, now and later: the process ends."""
        self._sources.stop()

    def collect(self, min_age_seconds: float = 3600, now: Callable[[], float] = time.time) -> tuple[str, ...]:
        """Delete stored versions that no registry entry can make live any more, and what the registry forgets.

        Args:
            min_age_seconds: Copies added or used since then stay: they may not be registered yet.
            now: The time, in seconds since the epoch.

        Returns:
            The versions deleted.
        """
        self._registry.prune()
        since = now() - min_age_seconds
        kept = self._registry.wanted_versions()
        deleted = []
        for version in self._store.versions():
            with suppress(AdapterNotFoundError):  # another server that shares the store was faster
                if version not in kept and self._store.remove_unused(version, since):
                    deleted.append(version)
        return tuple(deleted)

    @contextmanager
    def _recorded(self, name: str, source: str, actor: str) -> Iterator[None]:
        """Check the name, and record a refusal as an event."""
        check_name(name)
        try:
            yield
        except RefusedError as error:
            self._registry.record_event(
                "refuse", name, actor=actor, source=source, reason=error.reason.value, message=error.message
            )
            raise

    def _check(self, fetched: Fetched, *, operator: bool) -> tuple[StoredVersion, Adapter]:
        training = read_training(fetched.files)
        stored = self._store.ingest(fetched.files)
        try:
            adapter = self._validate(stored, training)
            own = check_companions(
                read_companions(fetched.files),
                fetched.beside,
                self._base.tokenizer,
                self._no_template(operator=operator),
            )
            remarks = adapter.remarks + own.remarks
            return stored, replace(adapter, remarks=remarks, chat_template=own.chat_template)
        except RefusedError:
            self._store.take_back(stored)
            raise

    def _validate(self, stored: StoredVersion, training: dict[str, Any]) -> Adapter:
        """Return what a stored version is; its bytes are those of its digest, so they are checked once."""
        checked = self._checked(stored.path, stored.version, json.dumps(training, sort_keys=True))
        return replace(checked, training=training)

    def _check_files(self, path: Path, version: str, training: str) -> Adapter:
        return validate_adapter(
            path, self._base, self._limits, version=version, training=json.loads(training)
        )

    def _no_template(self, *, operator: bool) -> str:
        """Return why an adapter's chat template is not used; "" if it is."""
        if self._templates == "none":
            return ALL_THE_BASES
        if self._templates == "operator" and not operator:
            return "this server takes those of adapters that its operator adds (LORECALL_ADAPTER_TEMPLATES)"
        return ""

    def _registered(self, stored: StoredVersion, record: VersionRecord) -> Adapter:
        """Return a stored version with what the registry has of it under its name."""
        return replace(
            self._validate(stored, record.training), chat_template=self.served(record).chat_template
        )

    def _share(self, stored: StoredVersion) -> None:
        if self._shared is not None:
            self._shared.put(stored)

    def _register(
        self, name: str, stored: StoredVersion, adapter: Adapter, source: str, actor: str, reason: str
    ) -> tuple[VersionRecord, Adapter]:
        record = self.served(
            self._registry.taken_in(name, adapter, source=source, actor=actor, reason=reason)
        )
        if adapter.chat_template != record.chat_template:
            record = self._registry.remark(name, stored.version, OTHER_TEMPLATE)
        # The name may have had this version before, with a record of its own.
        return record, replace(
            adapter,
            training=record.training,
            base_digest=record.base_digest,
            chat_template=record.chat_template,
        )

    def _fetch_again(self, record: VersionRecord) -> StoredVersion:
        source, shared = record.source, self._shared is not None and self._shared.has(record.version)
        if self._shared is not None and shared:
            source = self._shared.address_of(record.version)
        elif source.startswith(UPLOAD):
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"version {record.version[:12]} of {record.name} was uploaded to another server",
                hint="let the servers share one store directory, or give all of them one LORECALL_SHARED address",
                param="source",
            )
        with self._sources.fetched(source, our_own=shared) as fetched:
            stored = self._store.ingest(fetched.files)
        if stored.version != record.version:
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"{source} has changed since {record.name} was added: it holds version"
                f" {stored.version[:12]} by now, not {record.version[:12]}",
                hint="add it again as a new version; LORECALL_SHARED keeps a copy of all that is added",
                param="source",
            )
        return stored
