"""What we take from vLLM, checked against the one that is installed: `python -m tests.server.engine.vllm_places`.

It applies every fix, whose guards name what has moved, and asks for every name that server/ imports from vLLM,
with the keywords that it is called with, and for all that is called on the engine's client. Each complaint is a
line. What a fix does with what it finds, only an engine shows.
"""

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lorecall.server.engine.common.fair_slots import fair
from lorecall.server.engine.common.plugin import (
    PatchPointError,
    common_fixes,
    cpu_fixes,
    gpu_fixes,
    require,
    require_fields,
)
from lorecall.server.engine.start.environment import PLUGIN

SERVER = Path(__file__).parents[3] / "server"


def trees() -> Iterator[tuple[str, ast.Module]]:
    """The modules of server/, by path."""
    for path in sorted(SERVER.rglob("*.py")):
        yield str(path.relative_to(SERVER)), ast.parse(path.read_text(encoding="utf-8"))


def look_up(places: Iterable[tuple[str, str]]) -> Any:
    """The first of some names in modules of vLLM's that is there; it may be a module.

    Raises:
        ImportError: None is.
    """
    why: list[str] = []
    for module, name in places:
        try:
            found = importlib.import_module(module)
            return (
                getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")
            )
        except ImportError as error:
            why.append(f"no {name} of {module}: {error}")
    raise ImportError("; ".join(why))


def imported(tree: ast.Module) -> dict[str, list[tuple[str, str]]]:
    """The names that a module takes from vLLM, and where each may be: a module, and the name there."""
    found: dict[str, list[tuple[str, str]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "vllm":
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, []).append((node.module, alias.name))
    return found


def imports() -> Iterator[str]:
    """What is imported and is not there."""
    for path, tree in trees():
        for places in imported(tree).values():
            try:
                look_up(places)
            except (ImportError, OSError) as error:
                yield f"{path}: {error}"


def keywords() -> Iterator[str]:
    """What is called with a keyword that it does not take."""
    for path, tree in trees():
        names = imported(tree)
        for call in filter(lambda node: isinstance(node, ast.Call), ast.walk(tree)):
            assert isinstance(call, ast.Call)
            name = name_of(call.func)
            with suppress(ImportError, KeyError):  # that an import fails is said there
                taken = parameters(look_up(names[name]))
                wrong = [one.arg for one in call.keywords if one.arg and one.arg not in (taken or [one.arg])]
                yield from (f"{path}:{call.lineno} calls {name} with {one}" for one in wrong)


def parameters(called: Any) -> set[str] | None:
    """The names of what a function or class takes; None where it takes any."""
    found = inspect.signature(called).parameters
    return None if any(one.kind is one.VAR_KEYWORD for one in found.values()) else set(found)


def client() -> Iterator[str]:
    """What is asked of the engine's client and is not there."""
    theirs = look_up([("vllm.v1.engine.async_llm", "AsyncLLM")])
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and name_of(node.value) == "engine_client":
                try:
                    require_fields(theirs, node.attr)
                except PatchPointError as error:
                    yield f"{path}:{node.lineno}: {error}"


def name_of(node: ast.expr) -> str:
    """The last part of a name: of `self.engine_client`, "engine_client"."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def fixes() -> Iterator[str]:
    """What a fix, or a part of the server that takes the place of one of vLLM's, does not find."""
    for module in (*common_fixes(), *cpu_fixes(), *gpu_fixes()):
        yield from told(module, partial(apply, module))
    for part, put in {
        "served_models": models,
        "chat_templates": templates,
        "fair_slots": slots,
        "stopping": end,
    }.items():
        yield from told(part, put)


def told(what: str, put: Callable[[], object]) -> Iterator[str]:
    """What is said against a fix when it is put in its place."""
    try:
        put()
    except Exception as error:  # noqa: BLE001  whatever vLLM's change leads to
        yield f"{what}: {type(error).__name__}: {error}"


def apply(module: str) -> None:
    """A fix of the engine's."""
    importlib.import_module(module).apply()


def models() -> None:
    """Our list of models in the place of vLLM's."""
    ours = importlib.import_module("lorecall.server.lifecycle.served_models")
    ours.leave_modules()
    theirs = look_up([("vllm.entrypoints.openai.models.serving", "OpenAIServingModels")])
    ours.with_versions(theirs.__new__(theirs))


def templates() -> None:
    """Our renderer in the place of vLLM's."""
    ours = importlib.import_module("lorecall.server.lifecycle.chat_templates")
    theirs = look_up([("vllm.renderers.online_renderer", "OnlineRenderer")])
    ours.with_templates(theirs.__new__(theirs), None)


def slots() -> None:
    """Both schedulers of vLLM's with fair slots."""
    fair(look_up([("vllm.v1.core.sched.scheduler", "Scheduler")]))
    fair(look_up([("vllm.v1.core.sched.async_scheduler", "AsyncScheduler")]))


def end() -> None:
    """The engine's shutdown, which the server's takes the place of."""
    require(look_up([("vllm.v1.engine.async_llm", "AsyncLLM")]), "shutdown", ("self", "timeout"))


def main() -> int:
    """Print every complaint; return how many there are."""
    os.environ["VLLM_PLUGINS"] = PLUGIN  # what only a server does that names us
    found = [one for kind in (imports, keywords, client, fixes) for one in kind()]
    version = look_up([("vllm", "__version__")])
    sys.stdout.write("\n".join([*found, f"vllm {version}: {len(found)} problems"]) + "\n")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(main(), 99))
