"""The object on `app.state` that our routes share; it is made once the engine is up."""

import asyncio
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.audit.scorer import EngineInfo
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.auth.limits import Limits
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import Lease
from lorecall.server.lifecycle.served_models import VersionedModels
from lorecall.server.lifecycle.stopping import Stopping
from lorecall.server.observability.metrics import Metrics
from lorecall.server.scoring.score import EngineScoring
from lorecall.server.scoring.selfcheck import SelfCheck, check_engine


@dataclass(frozen=True, slots=True)
class NamedModel:
    """The base (no LoRA request, version "") or the live version of an adapter, with its own chat template."""

    version: str
    lora_request: Any
    chat_template: str = ""


@dataclass(slots=True)
class Serving:
    """The parts of a running server that our routes use.

    Attributes:
        models: vLLM's list of served models.
        adapters: The control plane.
        scoring: Teacher-forced scores through the engine.
        engine: What the engine is; its epsilon is the largest that was measured since the start, None before.
        keys: The valid API keys.
        metrics: Our metrics.
        limits: The rate limits of keys and models.
        open_metrics: Whether `/metrics` needs no key.
        max_upload_bytes: The largest archive that may be uploaded.
        max_body_bytes: The largest body of any other request.
        max_items: The most texts in one request to a model.
        measuring: Held while ε is measured.
        stopping: Counts the requests that run, and refuses new ones when the server stops.
        scraped: When a scrape last asked the engine, in seconds of the monotonic clock.
    """

    models: VersionedModels
    adapters: ControlPlane
    scoring: EngineScoring
    engine: EngineInfo
    keys: KeyGuard
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    open_metrics: bool = False
    max_upload_bytes: int = 8 << 30
    max_body_bytes: int = 64 << 20
    max_items: int = 4096
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)
    stopping: Stopping = field(default_factory=Stopping)
    scraped: float = float("-inf")

    def info(self) -> EngineInfo:
        """Return the engine's description, with the ε measured so far."""
        return self.engine

    async def measured(self) -> EngineInfo:
        """Return the engine's description with an ε, which is measured when the first audit asks for it."""
        async with self.measuring:
            if self.engine.epsilon is None:
                await self._check(chunk_edge=False)
        return self.engine

    async def selfcheck(self, *, chunk_edge: bool) -> SelfCheck:
        """Measure ε over the base and every adapter that can be scored; `info` reports the largest so far."""
        async with self.measuring:
            return await self._check(chunk_edge=chunk_edge)

    async def _check(self, *, chunk_edge: bool) -> SelfCheck:
        engine_set = self.adapters.engine_set
        held = [Lease(one) for _, one in sorted(engine_set.live.items()) if not one.info.refusal]
        try:
            loras = {lease.loaded.name: lease.loaded.lora_request for lease in held}
            models = {self.engine.base: None, **loras}
            found = await check_engine(self.scoring, models, chunk_edge=chunk_edge)
        finally:
            for lease in held:
                lease.release()
        largest = max(found.epsilon, self.engine.epsilon or 0.0)
        self.engine = dataclasses.replace(self.engine, epsilon=largest)
        return found

    async def model(self, name: str, *, for_prompt_scores: bool = False) -> NamedModel:
        """Return the model of a name; an adapter's version is leased until the request ends.

        Raises:
            AdapterNotFoundError: If there is neither a base nor an adapter of that name.
            AdapterError: If prompt scores of the adapter would not be its own.
        """
        if self.models.is_base_model(name):
            return NamedModel("", None)
        if name not in self.models.lora_requests:
            raise AdapterNotFoundError(f"The model `{name}` does not exist.", param="model")
        request = self.models.lora_requests[name]
        loaded = self.adapters.engine_set.of(request)
        if loaded is None:
            raise AdapterNotFoundError(f"The model `{name}` does not exist.", param="model")
        if for_prompt_scores and loaded.info.refusal:
            raise AdapterError(
                f"adapter {name!r} cannot be scored by prompt log-probabilities: {loaded.info.refusal}",
                hint="decode its snippets instead",
                param="model",
            )
        return NamedModel(loaded.version, request, loaded.info.chat_template)


def serving(request: Request) -> Serving:
    """Return the server's shared object."""
    return request.app.state.lorecall  # type: ignore[no-any-return]
