"""vLLM's list of served models, with adapter names that point at versions.

Inside the engine every version has a name of its own, `name@version`: vLLM compares LoRA requests by name,
keys its prefix cache by it, and must never take two versions for one. Outside, callers see the name only.
"""

from lorecall.server.engine.plugin import require
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ModelList
from vllm.lora.request import LoRARequest


def engine_name(name: str, version: str) -> str:
    """Return the name of one version inside the engine."""
    return f"{name}@{version}"


def public_name(name: str) -> str:
    """Return the name that callers use for an engine name."""
    return name.partition("@")[0]


class VersionedModels(OpenAIServingModels):  # type: ignore[misc]
    """The served models; `lora_requests` maps a public name to the request of its live version."""

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        """Return the name that an answer carries."""
        return public_name(str(super().model_name(lora_request)))

    async def show_available_models(self) -> ModelList:
        """Return the base and every adapter by its public name; `root` says which version is live."""
        listed = await super().show_available_models()
        for card in listed.data:
            if card.parent is not None:
                card.root = card.id
                card.id = public_name(card.id)
        return listed


def with_versions(models: OpenAIServingModels) -> VersionedModels:
    """Turn vLLM's models object, which its handlers already hold, into one with versions."""
    require(OpenAIServingModels, "model_name", ("self", "lora_request"))
    require(OpenAIServingModels, "show_available_models", ("self",))
    models.__class__ = VersionedModels
    return models  # type: ignore[no-any-return]
