"""What our routes share: one object on `app.state`, made when the engine is up."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from lorecall.adapters.errors import AdapterError, AdapterNotFoundError
from lorecall.audit.scorer import EngineInfo
from lorecall.server.control_plane import ControlPlane
from lorecall.server.models import VersionedModels
from lorecall.server.scoring import EngineScoring
from lorecall.server.selfcheck import SelfCheck, check_engine


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What a `model` stands for: the base (no LoRA request, version "") or an adapter's live version."""

    version: str
    lora_request: Any


@dataclass(slots=True)
class Serving:
    """The parts of a running server that our routes use.

    Attributes:
        models: vLLM's list of served models.
        adapters: The control plane.
        scoring: Teacher-forced scores through the engine.
        engine: What the engine is; its epsilon is the largest spread that was measured since the start.
    """

    models: VersionedModels
    adapters: ControlPlane
    scoring: EngineScoring
    engine: EngineInfo

    def info(self) -> EngineInfo:
        """Return what answers here."""
        return self.engine

    async def selfcheck(self, *, chunk_edge: bool) -> SelfCheck:
        """Measure the engine's spread over the base and every adapter that may be scored; it is remembered."""
        loras = {a.name: a.lora_request for a in self.adapters.list() if not a.info.refusal}
        models = {self.engine.base: None, **loras}
        found = await check_engine(self.scoring, models, chunk_edge=chunk_edge)
        largest = max(found.epsilon, self.engine.epsilon or 0.0)
        self.engine = dataclasses.replace(self.engine, epsilon=largest)
        return found

    async def model(self, name: str, *, for_prompt_scores: bool = False) -> NamedModel:
        """Return what `name` stands for.

        Raises:
            AdapterNotFoundError: If there is neither a base nor an adapter of that name.
            AdapterError: If prompt scores of the adapter would not be its own.
        """
        if self.models.is_base_model(name):
            return NamedModel("", None)
        try:
            adapter = self.adapters.get(name)
        except AdapterNotFoundError:
            static = self.models.lora_requests.get(name)  # given to vLLM itself at its start
            if static is None:
                raise
            return NamedModel("", static)
        if for_prompt_scores and adapter.info.refusal:
            raise AdapterError(
                f"adapter {name!r} cannot be scored by prompt log-probabilities: {adapter.info.refusal}",
                hint="decode its snippets instead",
                param="model",
            )
        return NamedModel(adapter.version, adapter.lora_request)


def serving(request: Request) -> Serving:
    """Return the server's shared object."""
    return request.app.state.lorecall  # type: ignore[no-any-return]
