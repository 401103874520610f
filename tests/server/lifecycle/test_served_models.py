"""What vLLM's handlers see of our adapters, and what callers see of both."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.adapters.access.rate_limit import RateLimits
from lorecall.adapters.core.errors import AdapterNotFoundError, UsageError
from lorecall.adapters.registry.tables import State
from lorecall.adapters.registry.transitions import ConflictError
from lorecall.server.auth.request_context import ForbiddenError, RequestContext, current
from lorecall.server.lifecycle.model_list import AdapterCards
from lorecall.server.lifecycle.served_models import (
    AdapterTable,
    VersionedModels,
    leave_modules,
    public_root,
    source_of,
    with_versions,
)
from vllm.entrypoints.openai.models.protocol import BaseModelPath, LoRAModulePath
from vllm.entrypoints.openai.models.serving import OpenAIModelRegistry, OpenAIServingModels
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest

VERSION = "c" * 64


class Plane:
    """A control plane whose versions end up in one state; nothing is loaded."""

    def __init__(self, state: State = State.LIVE) -> None:
        self.state, self.added, self.removed = state, dict[str, str](), list[str]()
        self.engine_set = SimpleNamespace(live={})
        self.live = {"acme-a": VERSION, "other-b": VERSION}

    def live_versions(self) -> dict[str, str]:
        """Two names have a live version."""
        return self.live

    def known(self, name: str) -> bool:
        """Whether a name has one."""
        return name in self.live

    async def add(self, name: str, source: str, *, actor: str, asker: object = None) -> Any:
        """Remember what was added."""
        del actor, asker
        self.added[name] = source
        return SimpleNamespace(version=VERSION, state=self.state, reason="it recites", audit_id="audit-1")

    async def remove(self, name: str, *, actor: str) -> None:
        """Remember what was removed."""
        del actor
        self.removed.append(name)


def models_of(plane: Plane, *bases: BaseModelPath, modules: Any = None) -> VersionedModels:
    """Return vLLM's models object over these bases, turned into ours."""
    made = OpenAIServingModels.__new__(OpenAIServingModels)
    made.base_model_paths = list(bases or (BaseModelPath("base", "/srv/secret/base"),))
    made.registry = OpenAIModelRegistry(SimpleNamespace(max_model_len=512), made.base_model_paths)
    made.static_lora_modules, made.lora_requests = modules, {}
    return with_versions(made).follow(plane)  # type: ignore[arg-type]


@contextmanager
def key(*patterns: str) -> Iterator[None]:
    """Be a caller with a key of these patterns."""
    scopes = frozenset({Scope.INFER, Scope.ADAPTERS})
    mine = ApiKey("1", "k", "0" * 64, scopes, patterns, RateLimits(), None)
    token = current.set(RequestContext(key=mine))
    try:
        yield
    finally:
        current.reset(token)


def cards(models: VersionedModels) -> dict[str, dict[str, Any]]:
    """Return the models as `GET /v1/models` shows them, by id."""
    return {card.id: card.model_dump() for card in asyncio.run(models.show_available_models()).data}


def test_a_key_sees_what_it_may_call_loaded_or_not() -> None:
    """In vLLM's shape, with parent and root."""
    models = models_of(Plane())
    with key("acme-*", "base"):
        shown = cards(models)
    assert set(shown) == {"base", "acme-a"}
    assert set(cards(models)) == {"base", "acme-a", "other-b"}
    adapter = shown["acme-a"]
    assert (adapter["parent"], adapter["root"]) == ("base", f"acme-a@{VERSION}")
    assert (adapter["object"], adapter["owned_by"]) == ("model", "vllm")
    assert (shown["base"]["parent"], shown["base"]["root"]) == (None, "base")
    assert shown["base"]["max_model_len"] == 512


def test_the_list_as_json_is_the_list() -> None:
    """Whole by default, with the fields and the order of vLLM's; who sees less gets less."""
    models = models_of(Plane(), BaseModelPath("base", "org/base"), BaseModelPath("alias", "org/base"))

    def plain(card: dict[str, Any]) -> dict[str, Any]:
        return {**card, "permission": len(card["permission"]), "created": type(card["created"])}

    for patterns in (("*",), ("acme-*", "base"), ("none",)):
        with key(*patterns):
            listed = json.loads(asyncio.run(models.listed()))
            shown = list(cards(models).values())
        assert listed.keys() == {"object", "data"}
        assert [plain(one) for one in listed["data"]] == [plain(one) for one in shown]


def test_the_list_comes_in_pages() -> None:
    """Every model once, the base's names first; a page begins after any name, also one that is gone."""
    plane = Plane()
    plane.live = {f"a{number}": VERSION for number in (3, 1, 2)}
    models = models_of(plane, BaseModelPath("zeta", "/b"), BaseModelPath("alias", "/b"))
    whole = ["zeta", "alias", "a1", "a2", "a3"]

    def page(after: str | None, limit: int | None) -> tuple[list[str], bool]:
        found = json.loads(asyncio.run(models.listed(after, limit)))
        return [one["id"] for one in found["data"]], found["has_more"]

    for limit in range(1, 7):
        walked, more = page(None, limit)
        while more:
            names, more = page(walked[-1], limit)
            assert names
            walked += names
        assert walked == whole, limit
    assert page("alias", None) == (["a1", "a2", "a3"], False)
    assert page("a15", 1) == (["a2"], True)
    assert page("zzz", 9) == ([], False)
    with key("zeta", "a2"):
        assert page(None, 1) == (["zeta"], True)
        assert page("zeta", 1) == (["a2"], False)
    with key("a1", "a3"):  # sees no name of the base
        assert page(None, 1) == (["a1"], True)
        assert page("a1", 1) == (["a3"], False)
        assert page("zeta", 1) == ([], False)  # no name that it sees: as any other that is gone
    assert page("", 2) == (["zeta", "alias"], True)


def test_only_the_cards_of_new_versions_are_made_again() -> None:
    """A list of thousands costs little; a removed adapter leaves it, a moved one shows its new version."""
    plane = Plane()
    models = models_of(plane)
    made: list[str] = []

    def parent(name: str) -> str:
        made.append(name)
        return models.parent(name)

    models.cards = AdapterCards(parent)

    def roots() -> list[str]:
        return [one["root"] for one in json.loads(asyncio.run(models.listed()))["data"]]

    assert roots() == ["base", f"acme-a@{VERSION}", f"other-b@{VERSION}"]
    plane.live = {"acme-a": VERSION, "new": "d" * 64}
    assert roots() == ["base", f"acme-a@{VERSION}", f"new@{'d' * 64}"]
    plane.live = {"acme-a": "e" * 64}
    assert roots() == ["base", f"acme-a@{'e' * 64}"]
    assert made == ["acme-a", "other-b", "new", "acme-a"]


def test_one_model_is_shown_to_who_sees_it() -> None:
    """A base's name or an adapter's; anything else is none."""
    models = models_of(Plane())
    with key("acme-*", "base"):
        found = {name: asyncio.run(models.one(name)) for name in ("base", "acme-a", "other-b", "nobody")}
    assert {name: card.root for name, card in found.items() if card} == {
        "base": "base", "acme-a": f"acme-a@{VERSION}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/srv/secret/base", "base"), ("s3://ours/base", "base"), ("org/model", "org/model"), ("./x/y", "base")],
)
def test_a_base_shows_its_hub_id_or_its_name(path: str, shown: str) -> None:
    """Never a path or a bucket of the server's own."""
    assert cards(models_of(Plane(), BaseModelPath("base", path)))["base"]["root"] == shown


def test_a_folder_that_looks_like_a_hub_id_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a path of the server's own after all."""
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_root("org/model", "base") == "base"


def test_a_base_may_have_an_at_sign_in_its_name() -> None:
    """It is answered, listed and named as a parent in full."""
    models = models_of(Plane(), BaseModelPath("org/model@v2", "/base"))
    assert models.model_name(None) == "org/model@v2"
    assert cards(models)["acme-a"]["parent"] == "org/model@v2"
    assert models.model_name(SimpleNamespace(lora_name=f"a@{VERSION}")) == "a"


def load(models: VersionedModels, name: str, **more: Any) -> str:
    """Load an adapter as vLLM's route does."""
    return asyncio.run(
        models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path="/x", **more))
    )


def test_vllms_load_goes_to_the_control_plane() -> None:
    """A taken name is moved only with `load_inplace`; vLLM's own table is never written."""
    plane = Plane()
    models = models_of(plane)
    assert load(models, "new") == "Success: LoRA adapter 'new' added successfully."
    with pytest.raises(UsageError, match="already been loaded"):
        load(models, "acme-a")
    assert load(models, "acme-a", load_inplace=True).startswith("Success")
    assert plane.added == {"new": "/x", "acme-a": "/x"}
    asyncio.run(models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name="acme-a")))
    assert plane.removed == ["acme-a"]
    assert dict(models.lora_requests) == {}
    with pytest.raises(TypeError):
        models.lora_requests["sneaked"] = object()  # type: ignore[index]


def test_a_load_under_the_gate_says_the_state() -> None:
    """Under audit it is accepted with the audit's id, in quarantine it is a conflict with the reason."""
    said = load(models_of(Plane(State.AUDITING)), "new")
    assert "auditing" in said
    assert "audit-1" in said
    assert "Success" not in said
    with pytest.raises(ConflictError, match="quarantined: it recites"):
        load(models_of(Plane(State.QUARANTINED)), "new", load_inplace=True)


@pytest.mark.parametrize("asked", [{"name": "other-b", "load_inplace": True}, {"name": "mine"}])
def test_a_key_loads_only_names_of_its_own(asked: dict[str, Any]) -> None:
    """Whichever route it came by, SageMaker's for one."""
    plane = Plane()
    with key("acme-*"), pytest.raises(ForbiddenError):
        load(models_of(plane), **asked)
    with key("acme-*"), pytest.raises(AdapterNotFoundError):
        asyncio.run(models_of(plane).unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name="other-b")))
    assert (plane.added, plane.removed) == ({}, [])


def test_fused_experts_are_refused() -> None:
    """The validation knows nothing of them."""
    with pytest.raises(UsageError, match="is_3d_lora_weight"):
        load(models_of(Plane()), "new", is_3d_lora_weight=True)


def test_the_command_lines_modules_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM loads none of them; hub ids become addresses, a served base's name becomes the parent."""
    monkeypatch.setattr(OpenAIServingModels, "init_static_loras", OpenAIServingModels.init_static_loras)
    leave_modules()
    modules = [
        LoRAModulePath("acme-a", "/adapters/a", base_model_name="alias"),
        LoRAModulePath("hub", "org/adapter", base_model_name="somebody/else"),
    ]
    bases = (BaseModelPath("base", "/b"), BaseModelPath("alias", "/b"))
    models = models_of(Plane(), *bases, modules=modules)
    asyncio.run(models.init_static_loras())
    assert models.take_modules({}) == ({"acme-a": "/adapters/a", "hub": "hf://org/adapter"}, [])
    assert models.take_modules({}) == ({}, [])
    assert cards(models)["acme-a"]["parent"] == "alias"
    assert cards(models)["other-b"]["parent"] == "base"


def test_bad_modules_are_left_out_and_said() -> None:
    """Two sources of one name, one that a setting names otherwise, and fused experts; the others are taken."""
    modules = [
        LoRAModulePath("a", "/1"),
        LoRAModulePath("a", "/2"),
        LoRAModulePath("a", "/1"),
        LoRAModulePath("set", "/3"),
        LoRAModulePath("fused", "/4", is_3d_lora_weight=True),
        LoRAModulePath("good", "/5"),
    ]
    found, wrong = models_of(Plane(), modules=modules).take_modules({"set": "/elsewhere"})
    assert found == {"a": "/1", "good": "/5"}
    assert [problem.split()[1] for problem in wrong] == ["a", "set", "fused"]


def test_a_relative_folder_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM looks for a folder before it asks the hub."""
    (tmp_path / "org" / "adapter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert source_of("org/adapter") == "org/adapter"
    assert source_of("org/another") == "hf://org/another"


def test_resolvers_are_never_asked() -> None:
    """Whatever was registered: an unknown name stays unknown."""

    class Resolver:
        async def resolve_lora(self, *_: str) -> None:
            raise AssertionError

    made = models_of(Plane())
    made.lora_resolvers = [Resolver()]
    assert asyncio.run(made.resolve_lora("unheard-of")).error.code == 404


def test_a_chat_with_the_base_looks_through_no_adapters() -> None:
    """VLLM goes through the requests for a modality's default adapter, which is refused: its cost is flat."""
    plane = Plane()
    plane.engine_set.live = {f"name-{number}": SimpleNamespace() for number in range(3)}
    table = models_of(plane).lora_requests
    assert len(table) == 3
    assert not table.values()


def test_no_model_is_no_adapter() -> None:
    """VLLM looks up None where a request names no model; under a key that was an error, and 400."""
    engine_set: Any = SimpleNamespace(live={})
    with key("acme-*"):
        assert None not in AdapterTable(engine_set)
        assert "" not in AdapterTable(engine_set)
