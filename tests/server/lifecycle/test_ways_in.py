"""Every way in which this vLLM gives an adapter to an engine is known, and ours or closed."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

CALLS = frozenset({"LoRARequest", "add_lora", "load_lora_adapter", "resolve_lora", "init_static_loras"})
"""Whoever gives an engine an adapter makes a request for it, or calls one of these."""

SKIPPED = ("benchmarks/", "lora/ops/", "lora/layers/")

OURS = "ends in VersionedModels, which hands it to the control plane"
CLOSED = "server/engine/common/deployment.py refuses to start with it"
INSIDE = "passes on a request that was made elsewhere"
DUMMY = "an adapter of zeros, to warm the engine up, before there is any request"
OFFLINE = "a Python program or a file of requests on the operator's own machine; there is no server"

KNOWN = {
    "entrypoints/common/offline.py:_resolve_mm_lora:LoRARequest": OFFLINE,
    "entrypoints/launchers/api_server/app_state.py:init_app_state:init_static_loras": (
        "replaced by `leave_modules`; endpoints.py adds the modules of --lora-modules through the control plane"
    ),
    "entrypoints/openai/models/serving.py:init_static_loras:load_lora_adapter": "replaced by `leave_modules`",
    "entrypoints/openai/models/serving.py:load_lora_adapter:LoRARequest": OURS,
    "entrypoints/openai/models/serving.py:load_lora_adapter:add_lora": OURS,
    "entrypoints/openai/models/serving.py:resolve_lora:add_lora": CLOSED,
    "entrypoints/openai/models/serving.py:resolve_lora:resolve_lora": CLOSED,
    "entrypoints/pooling/base/serving.py:_check_model:resolve_lora": CLOSED,
    "entrypoints/serve/engine/serving.py:_check_model:resolve_lora": CLOSED,
    "entrypoints/serve/lora/api_router.py:load_lora_adapter:load_lora_adapter": OURS,
    "plugins/lora_resolvers/filesystem_resolver.py:_get_lora_req_from_path:LoRARequest": CLOSED,
    "v1/engine/core.py:add_lora:add_lora": INSIDE,
    "v1/engine/core_client.py:add_lora:add_lora": INSIDE,
    "v1/engine/llm_engine.py:add_lora:add_lora": INSIDE,
    "v1/worker/gpu_worker.py:add_lora:add_lora": INSIDE,
    "v1/worker/lora_model_runner_mixin.py:maybe_select_dummy_loras:LoRARequest": DUMMY,
    "v1/worker/lora_model_runner_mixin.py:maybe_setup_dummy_loras:LoRARequest": DUMMY,
}


def calls(source: str) -> Iterator[tuple[str, str]]:
    """Yield (function, what it calls) for every call of `CALLS`."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                called = child.func.attr if isinstance(child.func, ast.Attribute) else ast.unparse(child.func)
                if called in CALLS:
                    yield inside, called
            yield from visit(child, inside)

    return visit(ast.parse(source), "")


def found_in(package: Path) -> set[str]:
    """Return `file:function:call` for every place of a package that gives an engine an adapter."""
    found = set()
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        text = path.read_text(encoding="utf-8")
        if not name.startswith(SKIPPED) and any(f"{call}(" in text for call in CALLS):
            found |= {f"{name}:{function}:{called}" for function, called in calls(text)}
    return found


def test_every_way_in_is_known() -> None:
    """A place that this list lacks may serve what nobody validated or audited."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    found = found_in(Path(spec.origin).parent)
    assert not found - KNOWN.keys(), (
        "vLLM has a new way to load an adapter. Follow it: hand it to the control plane (server/lifecycle/"
        "served_models.py) or refuse to start with it (server/engine/common/deployment.py); then add it to KNOWN."
    )
    assert not KNOWN.keys() - found, "vLLM no longer has these: delete them from KNOWN, and what guards them"


def test_a_new_way_in_is_found(tmp_path: Path) -> None:
    """The search bites: a call in a function, by a plain name and as a method."""
    (tmp_path / "new.py").write_text(
        "async def load(client):\n    await client.add_lora(request.LoRARequest('a', 1, '/tmp'))\n"
    )
    assert found_in(tmp_path) == {"new.py:load:add_lora", "new.py:load:LoRARequest"}
