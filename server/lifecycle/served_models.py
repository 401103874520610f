"""vLLM's list of served models, in which an adapter's name maps to its live version.

Inside the engine every version has its own name, `name@version`, because vLLM compares LoRA requests by name and
keys its prefix cache by it. Callers see the public name only.
"""

from collections.abc import Iterator, MutableMapping, ValuesView
from typing import Any

from lorecall.server.auth.request_context import current, sees
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.common.version_names import engine_name, public_name
from lorecall.server.lifecycle.engine_set import EngineSet
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ModelList
from vllm.lora.request import LoRARequest


class AdapterTable(MutableMapping[str, LoRARequest]):
    """Public name to LoRA request, as vLLM's handlers look it up.

    Within a request the first lookup of a name leases its version until the request ends; later lookups return
    that version. Names that the caller may not see are missing.

    Args:
        engine_set: The versions that the engine holds.
        static: The adapters that vLLM was given at its start.
    """

    def __init__(self, engine_set: EngineSet, static: dict[str, LoRARequest]) -> None:
        self._engine_set = engine_set
        self.static = static

    def __getitem__(self, name: str) -> LoRARequest:
        context = current.get()
        if not sees(name):
            raise KeyError(name)
        if context is not None and name in context.leases:
            return context.leases[name].lora_request
        loaded = self._engine_set.live.get(name)
        if loaded is None:
            return self.static[name]
        if context is not None:
            context.leases[name] = self._engine_set.lease(loaded)
        return loaded.lora_request

    def __setitem__(self, name: str, request: LoRARequest) -> None:
        self.static[name] = request

    def __delitem__(self, name: str) -> None:
        del self.static[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in sorted({*self.static, *self._engine_set.live}) if sees(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def values(self) -> ValuesView[LoRARequest]:
        """Return the requests without leases, for lists."""
        live = {name: one.lora_request for name, one in self._engine_set.live.items()}
        return {name: (self.static | live)[name] for name in self}.values()


class VersionedModels(OpenAIServingModels):  # type: ignore[misc]
    """The served models; `lora_requests` maps a public name to the request of its live version."""

    @property
    def base_names(self) -> frozenset[str]:
        """The base's names, for every caller."""
        return frozenset(path.name for path in self.base_model_paths)

    def is_base_model(self, model_name: str) -> bool:
        """Return whether a name is the base's and the caller may see it."""
        return bool(super().is_base_model(model_name)) and sees(model_name)

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        """Return the public name of the model that answers."""
        return public_name(str(super().model_name(lora_request)))

    async def show_available_models(self) -> ModelList:
        """Return the base and the adapters that the caller may see, by public name."""
        listed = await super().show_available_models()
        for card in listed.data:
            if card.parent is not None:
                card.root = card.id
                card.id = public_name(card.id)
        listed.data = [card for card in listed.data if sees(card.id)]
        return listed

    def new_request(self, name: str, info: Any) -> LoRARequest:
        """Return a LoRA request for a version, with an id that was never used before."""
        return LoRARequest(
            lora_name=engine_name(name, info.version),
            lora_int_id=self.lora_id_counter.inc(1),
            lora_path=str(info.path),
        )


def with_versions(models: OpenAIServingModels) -> VersionedModels:
    """Turn vLLM's models object, which its handlers already hold, into one with versions."""
    require(OpenAIServingModels, "model_name", ("self", "lora_request"))
    require(OpenAIServingModels, "show_available_models", ("self",))
    require(OpenAIServingModels, "is_base_model", ("self", "model_name"))
    models.__class__ = VersionedModels
    return models  # type: ignore[no-any-return]
