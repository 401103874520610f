"""Refuses vLLM's ways to serve in which our keys, routes and ids of adapters would not hold.

`lorecall serve` checks its command line with the same words. Under `vllm serve` with `VLLM_PLUGINS=lorecall` the
checks run where vLLM 0.32 makes the engine's configuration, before it starts any engine.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from lorecall.adapters.core.errors import UsageError
from lorecall.server.engine.common.plugin import require
from lorecall.server.engine.common.served_modules import check_target_modules
from lorecall.server.engine.start.environment import PLUGIN
from lorecall.server.settings import read_settings

GRPC_SERVER = "vllm.entrypoints.launchers.grpc_server"
RESOLVER_VARIABLES = ("VLLM_LORA_RESOLVER_CACHE_DIR", "VLLM_LORA_RESOLVER_HF_REPO_LIST")


def check_api_servers(count: int) -> None:
    """Refuse several API server processes over the same engines.

    Each would count the integer ids of adapters from 1, so one tenant could get another's adapter.

    Raises:
        UsageError: There is more than one.
    """
    if count > 1:
        raise UsageError(
            f"{count} API servers over the same engines would give different adapters the same ids",
            hint="set --api-server-count 1: one API server for all of --data-parallel-size; or start one server "
            "for each engine behind a load balancer (--data-parallel-external-lb), on one registry",
            param="--api-server-count",
        )


def check_frontend(environ: Mapping[str, str], *, grpc: bool) -> None:
    """Refuse front ends of vLLM's that are not its Python OpenAI server.

    Raises:
        UsageError: The Rust front end or the gRPC server was chosen.
    """
    if environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        raise UsageError(
            "vLLM's Rust front end has neither our routes nor our API keys",
            hint="unset VLLM_USE_RUST_FRONTEND",
            param="VLLM_USE_RUST_FRONTEND",
        )
    if grpc:
        raise UsageError(
            "vLLM's gRPC server has neither our routes nor our API keys",
            hint="leave out --grpc",
            param="--grpc",
        )


def check_resolvers(environ: Mapping[str, str], registered: tuple[str, ...] = ()) -> None:
    """Refuse vLLM's LoRA resolvers, which load an adapter at the first request that names it.

    Raises:
        UsageError: One is set up.
    """
    named = [name for name in RESOLVER_VARIABLES if environ.get(name)]
    if named or registered:
        raise UsageError(
            f"vLLM's LoRA resolvers ({', '.join([*named, *registered])}) would serve adapters that nobody "
            "validated or audited",
            hint=f"unset {' and '.join(named) or 'their plugins in VLLM_PLUGINS'}, and name the adapters in "
            "LORECALL_ADAPTERS or add them with POST /v1/adapters",
            param=named[0] if named else "VLLM_PLUGINS",
        )


def check_default_loras(loras: Mapping[str, str] | None) -> None:
    """Refuse adapters that vLLM would apply by a message's kind: a request names its adapter here.

    Raises:
        UsageError: There are some.
    """
    if loras:
        raise UsageError(
            f"--default-mm-loras ({', '.join(sorted(loras))}) is not supported: here a request names its adapter",
            hint="name them in --lora-modules, and in each request's model",
            param="--default-mm-loras",
        )


def check_start(engine_args: Any, usage_context: Any, *, headless: bool) -> None:
    """Check what vLLM is about to start, if it is a server and this package was asked to be part of it.

    Raises:
        UsageError: Our keys, routes or ids of adapters would not hold, or a setting of ours is wrong.
    """
    if headless or not is_named() or getattr(usage_context, "name", "") != "OPENAI_API_SERVER":
        return
    from vllm.lora.resolver import LoRAResolverRegistry
    from vllm.platforms import current_platform

    check_api_servers(engine_args._api_process_count)
    check_frontend(os.environ, grpc=GRPC_SERVER in sys.modules)
    check_resolvers(os.environ, tuple(LoRAResolverRegistry.get_supported_resolvers()))
    check_default_loras(engine_args.default_mm_loras)
    if not current_platform.is_cpu():
        check_target_modules(engine_args.lora_target_modules)
    read_settings()


def check_endpoints(names: list[str]) -> None:
    """Refuse a server in which vLLM has left out our routes, as it does with a log line only.

    Raises:
        UsageError: Our plugin is not among those that it attached.
    """
    if is_named() and PLUGIN not in names:
        raise UsageError(
            "VLLM_PLUGINS names lorecall, but its routes and API keys were not attached",
            hint="see the log for the reason; lorecall serves models that generate text",
            param="VLLM_PLUGINS",
        )


def is_named() -> bool:
    """Whether this package was asked for by name; vLLM loads the engine's fixes without that, but no routes."""
    return PLUGIN in os.environ.get("VLLM_PLUGINS", "").split(",")


def apply() -> None:
    """Put the checks before the start of an engine, and after the routes were attached."""
    import vllm.plugins
    from vllm.engine.arg_utils import EngineArgs

    create = require(EngineArgs, "create_engine_config", ("self", "usage_context", "headless"))
    load = require(vllm.plugins, "load_endpoint_plugins", ("supported_tasks",))

    def checked_config(self: Any, usage_context: Any = None, headless: bool = False) -> Any:  # noqa: FBT001, FBT002
        check_start(self, usage_context, headless=headless)
        return create(self, usage_context, headless)

    def checked_plugins(supported_tasks: Any = None) -> Any:
        found = load(supported_tasks)
        check_endpoints([one.name for one in found])
        return found

    EngineArgs.create_engine_config = checked_config
    vllm.plugins.load_endpoint_plugins = checked_plugins
