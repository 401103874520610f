"""The `vllm.general_plugins` entry point: applies our fixes in every process that vLLM starts.

Each fix is a module with an `apply()`. It first checks with `require` that the function at its patch point still
has the expected signature, and with `require_fields` that the fields which it reads are there, so that an upgrade
of vLLM fails at the start and not during a request.
"""

import dis
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from lorecall.adapters.core.errors import LorecallError

VLLM_VERSION = "0.32.0"
"""The version of vLLM that every patch here was written against."""

_applied: list[str] = []


class PatchPointError(LorecallError):
    """vLLM has no such function, or another signature, at a patch point."""

    code = "patch_point_moved"


def require(owner: Any, name: str, parameters: tuple[str, ...]) -> Callable[..., Any]:
    """Return `owner.name` after checking that its parameters begin with those expected.

    Raises:
        PatchPointError: The attribute is missing or its signature changed.
    """
    target = getattr(owner, name, None)
    where = f"{getattr(owner, '__module__', '')}.{getattr(owner, '__qualname__', owner)}.{name}"
    if target is None:
        raise PatchPointError(f"{where} does not exist in this vLLM", hint=f"install vllm {VLLM_VERSION}")
    found = tuple(inspect.signature(target).parameters)
    if found[: len(parameters)] != parameters:
        raise PatchPointError(
            f"{where} takes {found} but {parameters} was expected", hint=f"install vllm {VLLM_VERSION}"
        )
    return target  # type: ignore[no-any-return]


def require_fields(owner: type, *names: str) -> None:
    """Check that objects of a class have attributes: of the class, annotated, or set by one of its methods.

    Raises:
        PatchPointError: One is missing.
    """
    found: set[str] = set()
    for one in inspect.getmro(owner):
        found.update(vars(one), vars(one).get("__annotations__", ()))
        for method in filter(inspect.isfunction, vars(one).values()):
            steps = dis.get_instructions(inspect.unwrap(method))
            found.update(step.argval for step in steps if step.opname == "STORE_ATTR")
    for name in names:
        if name not in found:
            raise PatchPointError(
                f"{owner.__module__}.{owner.__qualname__}.{name} does not exist in this vLLM",
                hint=f"install vllm {VLLM_VERSION}",
            )


def cpu_fixes() -> tuple[str, ...]:
    """Return the modules of the fixes for the CPU engine, in the order of application."""
    return (
        "lorecall.server.engine.cpu.int8_exact",
        "lorecall.server.engine.cpu.lora_patch",
        "lorecall.server.engine.cpu.compiled_model",
        "lorecall.server.engine.cpu.attention",
        "lorecall.server.engine.cpu.output_matrix",
        "lorecall.server.engine.cpu.target_scores",
        "lorecall.server.engine.cpu.kept_memory",
        "lorecall.server.engine.cpu.moe_experts",
        "lorecall.server.engine.cpu.gloo_device",
        "lorecall.server.engine.processes.forked_processes",
    )


def common_fixes() -> tuple[str, ...]:
    """Return the modules of the fixes for every platform."""
    return (
        "lorecall.server.engine.common.deployment",
        "lorecall.server.engine.processes.interrupted_start",
        "lorecall.server.engine.processes.parent_watch",
        "lorecall.server.engine.common.spool",
        "lorecall.server.engine.common.tiers",
        "lorecall.server.engine.common.adapted_modules",
        "lorecall.server.engine.common.lora_labels",
        "lorecall.server.engine.common.fair_slots",
        "lorecall.server.engine.common.rank_patterns",
        "lorecall.server.engine.common.rotary_rows",
    )


def gpu_fixes() -> tuple[str, ...]:
    """Return the modules of the fixes for an engine on a GPU."""
    return ("lorecall.server.engine.gpu.linear_lora", "lorecall.server.engine.gpu.target_scores")


def register() -> None:
    """Apply the fixes for this platform once; vLLM calls it in every process."""
    from vllm.platforms import current_platform

    modules = common_fixes() + (cpu_fixes() if current_platform.is_cpu() else gpu_fixes())
    for module in modules:
        if module not in _applied:
            importlib.import_module(module).apply()
            _applied.append(module)
