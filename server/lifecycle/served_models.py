"""vLLM's list of served models, in which an adapter's name maps to its live version.

Inside the engine every version has its own name, `name@version`, because vLLM compares LoRA requests by name and
keys its prefix cache by it. Callers see the public name only. vLLM's own ways to load an adapter, by its command
line and by its routes, end here in our control plane; see tests/server/lifecycle/test_ways_in.py.
"""

import re
from collections.abc import Iterator, Mapping, ValuesView
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from lorecall.adapters.core.errors import AdapterNotFoundError, UsageError
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.server.auth.request_context import ForbiddenError, actor, current, own_sources, sees
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.common.version_names import engine_name, public_name
from lorecall.server.lifecycle.control_plane import ControlPlane
from lorecall.server.lifecycle.engine_set import EngineSet
from lorecall.server.lifecycle.model_list import AdapterCards, adapter_card, list_json
from vllm.entrypoints.openai.models.protocol import LoRAModulePath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.lora.request import LoRARequest

NO_FUSED_EXPERTS = "is_3d_lora_weight, experts' weights in one tensor, is not supported"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class AdapterTable(Mapping[str, LoRARequest]):
    """Public name to LoRA request, as vLLM's handlers look it up.

    Within a request the first lookup of a name leases its version until the request ends; later lookups return
    that version. Names that the caller may not see are missing. vLLM can read it, and add nothing to it.

    Args:
        engine_set: The versions that the engine holds.
    """

    def __init__(self, engine_set: EngineSet) -> None:
        self._engine_set = engine_set

    def __getitem__(self, name: str | None) -> LoRARequest:
        context = current.get()
        if not name or not sees(name):  # vLLM asks for None where a request names no model
            raise KeyError(name)
        if context is not None and name in context.leases:
            return context.leases[name].lora_request
        loaded = self._engine_set.live[name]
        if context is not None:
            context.leases[name] = self._engine_set.lease(loaded)
        return loaded.lora_request

    def __iter__(self) -> Iterator[str]:
        return (name for name in sorted(self._engine_set.live) if sees(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def values(self) -> ValuesView[LoRARequest]:
        """Return none: vLLM looks through them for default multimodal adapters, which are refused.

        It does so for every chat with the base, which must cost the same whatever number is loaded.
        """
        return dict[str, LoRARequest]().values()


class VersionedModels(OpenAIServingModels):  # type: ignore[misc]
    """The served models; `lora_requests` maps a public name to the request of its live version.

    Attributes:
        parents: The base's name that `--lora-modules` gave an adapter, where it gave one that is served.
        cards: The adapters' cards as JSON.
    """

    plane: ControlPlane
    parents: dict[str, str]
    cards: AdapterCards
    static_lora_modules: list[LoRAModulePath] | None

    def follow(self, plane: ControlPlane) -> Self:
        """List and load adapters through a control plane from now on."""
        self.plane = plane
        self.lora_requests = AdapterTable(plane.engine_set)
        return self

    @property
    def base_names(self) -> frozenset[str]:
        """The base's names, for every caller."""
        return frozenset(path.name for path in self.base_model_paths)

    def is_base_model(self, model_name: str) -> bool:
        """Return whether a name is the base's and the caller may see it."""
        return bool(super().is_base_model(model_name)) and sees(model_name)

    def chat_template(self, name: str | None) -> str:
        """Return the chat template of an adapter's own; "" for the base's."""
        request = None if name is None else self.lora_requests.get(name)
        loaded = None if request is None else self.plane.engine_set.of(request)
        return "" if loaded is None else loaded.info.chat_template

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        """Return the public name of the model that answers."""
        name = str(super().model_name(lora_request))
        return name if lora_request is None else public_name(name)

    async def show_available_models(self) -> ModelList:
        """Return the base and the adapters that the caller may use, loaded or not, by public name.

        An adapter's `root` is its version's name; the base's is its hub id, or its name if it came from a folder.
        """
        listed = await self._bases()
        listed.data += [self.card(*live) for live in sorted(self.plane.live_versions().items())]
        listed.data = [card for card in listed.data if sees(card.id)]
        return listed

    async def listed(self, after: str | None = None, limit: int | None = None) -> bytes:
        """Return the same as JSON, or a page of it: see `list_json`."""
        bases = await self._bases()
        return list_json(bases.data, self.cards.of(self.plane.live_versions()), sees, after, limit)

    async def one(self, name: str) -> ModelCard | None:
        """Return the card of one model, None if the caller sees none of that name."""
        if not sees(name):
            return None
        version = self.plane.live_versions().get(name)
        if version is not None:
            return self.card(name, version)
        return next((card for card in (await self._bases()).data if card.id == name), None)

    async def _bases(self) -> ModelList:
        listed = await self.registry.show_available_models()
        for card in listed.data:
            card.root = public_root(card.root or "", card.id)
        return listed

    def card(self, name: str, version: str) -> ModelCard:
        """Return the card of an adapter, by its name and version."""
        return adapter_card(name, version, self.parent(name))

    def parent(self, name: str) -> str:
        """Return the base's name that an adapter's card shows."""
        return self.parents.get(name, str(self.base_model_paths[0].name))

    async def load_lora_adapter(
        self, request: LoadLoRAAdapterRequest, base_model_name: str | None = None
    ) -> str:
        """Add an adapter as vLLM's and SageMaker's routes ask for it; return what to answer.

        Raises:
            ForbiddenError: The caller may not have an adapter of that name.
            UsageError: The name is taken, the adapter is refused, or it asks for what is not supported here.
            ConflictError: The version may not go live: the message has its state and the reason.
        """
        del base_model_name  # only vLLM's start has one: see `take_modules`
        name = request.lora_name
        check_own(name)
        if request.is_3d_lora_weight:
            raise UsageError(NO_FUSED_EXPERTS, hint="save them one by one", param="is_3d_lora_weight")
        if self.plane.known(name) and not request.load_inplace:
            raise UsageError(
                f"The lora adapter '{name}' has already been loaded.",
                hint="set load_inplace to true to move the name to a new version",
                param="lora_name",
            )
        added = await self.plane.add(name, request.lora_path, actor=actor(), asker=own_sources())
        if added.state is State.LIVE:
            return f"Success: LoRA adapter '{name}' added successfully."
        if added.state is State.AUDITING:
            return (
                f"Accepted: version {added.version[:12]} of LoRA adapter '{name}' is auditing; "
                f"it goes live if audit {added.audit_id} admits it."
            )
        raise ConflictError(
            f"version {added.version[:12]} of {name} is {added.state}: {added.reason}",
            hint="override it with a reason, or add another version",
            param="lora_name",
        )

    async def unload_lora_adapter(self, request: UnloadLoRAAdapterRequest) -> str:
        """Remove an adapter as vLLM's and SageMaker's routes ask for it; return what to answer.

        Raises:
            AdapterNotFoundError: There is none of that name, or the caller does not see it.
        """
        if not sees(request.lora_name):
            raise AdapterNotFoundError(f"there is no adapter {request.lora_name!r}", param="lora_name")
        await self.plane.remove(request.lora_name, actor=actor())
        return f"Success: LoRA adapter '{request.lora_name}' removed successfully."

    async def resolve_lora(self, lora_name: str) -> ErrorResponse:
        """Answer that there is no such adapter: what exists was loaded before, and no resolver is asked."""
        return create_error_response(
            message=f"LoRA adapter {lora_name} does not exist",
            err_type="NotFoundError",
            status_code=HTTPStatus.NOT_FOUND,
        )

    def take_modules(self, named: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
        """Return the adapters that vLLM's command line names, as name to path or address, and what is wrong.

        Args:
            named: Adapters that are named elsewhere; none of them may have another source here.
        """
        found, wrong = dict[str, str](), list[str]()
        for module in self.static_lora_modules or ():
            source = source_of(module.path)
            if (found | dict(named)).get(module.name, source) != source:
                wrong.append(f"adapter {module.name} is not served from {source}: it is named twice")
                continue
            if module.is_3d_lora_weight:
                wrong.append(f"adapter {module.name} is not served: {NO_FUSED_EXPERTS}")
                continue
            found[module.name] = source
            if module.base_model_name in self.base_names:
                self.parents[module.name] = module.base_model_name
        self.static_lora_modules = None
        return found, wrong

    def new_request(self, name: str, info: Any) -> LoRARequest:
        """Return a LoRA request for a version, with an id that was never used before."""
        return LoRARequest(
            lora_name=engine_name(name, info.version),
            lora_int_id=self.lora_id_counter.inc(1),
            lora_path=str(info.path),
        )


def public_root(path: str, name: str) -> str:
    """Return what callers may know of where a base came from: its hub id, or else its name."""
    return path if _HUB_ID.fullmatch(path) and not Path(path).exists() else name


def source_of(path: str) -> str:
    """Return a path of vLLM's command line as our sources spell it: vLLM takes folders and hub ids."""
    is_hub_id = _HUB_ID.fullmatch(path) and not Path(path).expanduser().exists()
    return f"hf://{path}" if is_hub_id else path


def check_own(name: str) -> None:
    """Check that the caller may have an adapter of that name.

    Raises:
        ForbiddenError: None of the key's patterns matches it.
    """
    if not sees(name):
        raise ForbiddenError(
            f"this API key may not have an adapter named {name[:128]!r}",
            hint="choose a name that its patterns match",
        )


def leave_modules() -> None:
    """Keep vLLM from loading `--lora-modules` itself: `take_modules` returns them for our pipeline.

    To be called before vLLM makes its models object.
    """
    require(OpenAIServingModels, "init_static_loras", ("self",))

    async def leave(_models: OpenAIServingModels) -> None:
        """Load nothing."""

    OpenAIServingModels.init_static_loras = leave


def with_versions(models: OpenAIServingModels) -> VersionedModels:
    """Turn vLLM's models object, which its handlers already hold, into one with versions."""
    require(OpenAIServingModels, "model_name", ("self", "lora_request"))
    require(OpenAIServingModels, "show_available_models", ("self",))
    require(OpenAIServingModels, "is_base_model", ("self", "model_name"))
    require(OpenAIServingModels, "load_lora_adapter", ("self", "request", "base_model_name"))
    require(OpenAIServingModels, "unload_lora_adapter", ("self", "request"))
    require(OpenAIServingModels, "resolve_lora", ("self", "lora_name"))
    models.__class__ = VersionedModels
    models.parents = {}
    models.cards = AdapterCards(models.parent)
    return models  # type: ignore[no-any-return]
