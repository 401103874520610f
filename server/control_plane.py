"""The adapters of one server: taken into the store, checked, loaded into the engine, and removed from it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.adapters.errors import AdapterError, AdapterNotFoundError, UsageError
from lorecall.adapters.manifest import AdapterInfo, read_adapter
from lorecall.adapters.names import check_name
from lorecall.adapters.store import Store
from lorecall.server.models import VersionedModels, engine_name
from vllm.lora.request import LoRARequest


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One adapter as it is live.

    Attributes:
        name: What callers write as `model`.
        info: What the files say.
        lora_request: How the engine knows this version.
        pinned: Whether it may be evicted from the engine's slots.
    """

    name: str
    info: AdapterInfo
    lora_request: LoRARequest
    pinned: bool = False

    @property
    def version(self) -> str:
        """Sha256 over configuration and weights, in hex."""
        return self.info.version

    def describe(self) -> dict[str, Any]:
        """Return the JSON object of `GET /v1/adapters/{name}`."""
        return {
            "name": self.name,
            "version": self.version,
            "state": "live",
            "rank": self.info.rank,
            "effective_parameters": self.info.effective_parameters,
            "target_modules": list(self.info.target_modules),
            "pinned": self.pinned,
            "refusal": self.info.refusal,
            "training": dict(self.info.training),
        }


class ControlPlane:
    """Adds and removes adapters while the server runs; one change of a name at a time.

    Args:
        engine_client: vLLM's client of the engine.
        models: vLLM's list of served models.
        store: Where our own copies of the bytes live.
        max_lora_rank: The largest rank that the engine was started for; 0 where LoRA is off.
    """

    def __init__(self, engine_client: Any, models: VersionedModels, store: Store, max_lora_rank: int) -> None:
        self._engine = engine_client
        self._models = models
        self._store = store
        self._max_lora_rank = max_lora_rank
        self._live: dict[str, ServedAdapter] = {}
        self._change = asyncio.Lock()

    def list(self) -> list[ServedAdapter]:
        """Return the live adapters by name."""
        return [self._live[name] for name in sorted(self._live)]

    def get(self, name: str) -> ServedAdapter:
        """Return a live adapter. Raises AdapterNotFoundError."""
        found = self._live.get(name)
        if found is None:
            known = ", ".join(sorted(self._live)) or "none"
            raise AdapterNotFoundError(
                f"adapter {name!r} does not exist", hint=f"adapters served here: {known}", param="model"
            )
        return found

    async def add(self, name: str, source: str, *, pin: bool = False) -> ServedAdapter:
        """Take an adapter directory into the store, load it, and point `name` at it.

        A name that exists moves to the new version in one step: new requests take it, and the version before
        leaves the engine. The same bytes under the same name change nothing.

        Raises:
            AdapterError: If the adapter cannot be served here, with the reason.
        """
        check_name(name)
        if self._models.is_base_model(name):
            raise UsageError(
                f"{name!r} is the name of the base model", hint="choose another name", param="name"
            )
        info = await asyncio.to_thread(self._take_in, Path(source))
        async with self._change:
            previous = self._live.get(name)
            if previous is not None and previous.version == info.version:
                return previous
            adapter = await self._load(name, info, pin=pin)
            self._live[name] = adapter
            self._models.lora_requests[name] = adapter.lora_request
            if previous is not None:
                await self._engine.remove_lora(previous.lora_request.lora_int_id)
        return adapter

    async def remove(self, name: str) -> ServedAdapter:
        """Take a name out of service, and its version out of the engine. Raises AdapterNotFoundError."""
        async with self._change:
            adapter = self.get(name)
            del self._live[name]
            self._models.lora_requests.pop(name, None)
            await self._engine.remove_lora(adapter.lora_request.lora_int_id)
        return adapter

    def _take_in(self, source: Path) -> AdapterInfo:
        if not source.is_dir():
            raise AdapterError(
                f"{source} is not a directory", hint="give the PEFT directory of an adapter", param="source"
            )
        stored = self._store.ingest(source)
        info = read_adapter(stored.path)
        if info.rank > self._max_lora_rank:
            raise AdapterError(
                f"rank {info.rank} is over this server's maximum of {self._max_lora_rank}",
                hint=f"start the server with --enable-lora --max-lora-rank {info.rank} or more",
                param="rank",
            )
        return info

    async def _load(self, name: str, info: AdapterInfo, *, pin: bool) -> ServedAdapter:
        request = LoRARequest(
            lora_name=engine_name(name, info.version),
            lora_int_id=self._models.lora_id_counter.inc(1),
            lora_path=str(info.path),
        )
        try:
            await self._engine.add_lora(request)
        except Exception as error:  # vLLM raises whatever the worker raised
            raise AdapterError(
                f"the engine refuses adapter {name!r}: {error}", hint="train it for this base", param="source"
            ) from error
        if pin:
            await self._engine.pin_lora(request.lora_int_id)
        return ServedAdapter(name, info, request, pinned=pin)
