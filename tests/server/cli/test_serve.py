"""`lorecall serve` finds out what is wrong before it starts an engine, and says it in two lines."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from lorecall.adapters.core.errors import LorecallError
from lorecall.server import launch

COMMAND = Path(sys.executable).with_name("lorecall")


def serve(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run `lorecall serve` to its end; return its exit code and stderr."""
    done = subprocess.run(
        [COMMAND, "serve", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def refused(*arguments: str, **variables: str) -> str:
    """Have what `lorecall serve` runs refuse with exit code 2; return the error and its hint.

    In this process, which takes a second less: the tests around it say how a process ends with such an error.
    """
    base, *flags = arguments
    with mock.patch.dict(os.environ, variables), pytest.raises(LorecallError) as caught:
        launch.serve(base, 8000, flags)
    assert caught.value.exit_code == 2
    return f"{caught.value}\n{caught.value.hint}"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A directory that passes for a model as long as nobody loads it."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return str(tmp_path)


def test_a_missing_base_is_exit_2_and_says_how_to_make_one(tmp_path: Path) -> None:
    """The path that is wrong stands in the error, the command that helps in the hint."""
    code, shown = serve("--base", str(tmp_path / "nowhere"))
    assert code == 2
    assert shown.startswith(f"error: {tmp_path / 'nowhere'} is not a directory\nhint: ")
    assert "lorecall base prepare" in shown


def test_a_directory_without_a_model_is_exit_2(tmp_path: Path) -> None:
    """A directory that is no model is refused as such."""
    assert "holds no config.json" in refused(str(tmp_path))


def test_a_port_in_use_is_exit_2(model: str) -> None:
    """The port is tried before the engine takes half a minute to start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, shown = serve("--base", model, "--port", str(port))
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LORECALL_STROE", "x"),
        ("LORECALL_ADAPTERS", "[]"),
        ("LORECALL_LOCAL_ROOTS", "/no/such/folder"),
        ("LORECALL_ADAPTER_LIMITS", '{"*": {"requests": 1}}'),
        ("LORECALL_LIMITS_URL", "http://localhost"),
        ("LORECALL_LIMITS_URL", "redis://localhost:port"),
        ("LORECALL_MAX_ITEMS", "0"),
        ("LORECALL_PREFIX_CACHE", "mine"),
        ("LORECALL_SOURCES", "hf://acme*"),
        ("LORECALL_SOURCES", "hf://acme/*,https://example.org/"),
        ("LORECALL_SOURCES", "/srv/adapters"),
    ],
)
def test_a_bad_variable_is_exit_2_by_name(model: str, name: str, value: str) -> None:
    """A misspelt or unreadable setting stops the server with the variable's name."""
    assert name in refused(model, **{name: value})


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["--api-server-count", "2"], {}, "--api-server-count 1"),
        (["--headless"], {}, "vllm serve --headless"),
        (["--grpc"], {}, "gRPC"),
        (["--data-parallel-multi-port-external-lb"], {}, "--data-parallel-rank"),
        ([], {"VLLM_USE_RUST_FRONTEND": "1"}, "unset VLLM_USE_RUST_FRONTEND"),
        ([], {"VLLM_LORA_RESOLVER_CACHE_DIR": "."}, "unset VLLM_LORA_RESOLVER_CACHE_DIR"),
    ],
)
def test_other_ways_to_serve_are_exit_2(
    model: str, flags: list[str], variables: dict[str, str], said: str
) -> None:
    """What would go without our routes, keys or ids is refused with what to do instead."""
    assert said in refused(model, *flags, **variables)


def test_a_registry_that_cannot_be_opened_is_said_before_the_engine_starts(model: str) -> None:
    """Also where no API key is asked for."""
    code, shown = serve("--base", model, LORECALL_REGISTRY="sqlite:////no/such/folder/registry.db")
    assert code
    assert "registry" in shown
    assert "Traceback" not in shown


def test_the_old_name_of_the_sources_leads_to_the_new_one(model: str) -> None:
    """Who sets LORECALL_SOURCE_SCHEMES must not believe that it still limits anything."""
    assert "LORECALL_SOURCES" in refused(model, LORECALL_SOURCE_SCHEMES="s3")
