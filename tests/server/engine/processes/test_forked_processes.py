"""When a CPU engine's processes are forks; that they are is seen in `server/test_stopping.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lorecall.server.engine.processes import forked_processes
from lorecall.server.engine.start.environment import cpu_environment, load_openmp, openmp_library
from vllm.platforms.cpu import CpuPlatform

METHOD = forked_processes.METHOD


@pytest.mark.parametrize(
    ("before", "loaded"), [("", True), ("import sys; sys.modules['torch'] = None", False)], ids=["", "torch"]
)
def test_the_runtime_is_loaded_before_torch_or_not_at_all(before: str, *, loaded: bool) -> None:
    """Once torch has its own, another one beside it would serve nobody."""
    ask = (
        "from lorecall.server.engine.start.environment import load_openmp\n"
        "print(load_openmp(), 'libiomp5.so' in open('/proc/self/maps').read())"
    )
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    said = subprocess.check_output([sys.executable, "-c", f"{before}\n{ask}"], env=environ, text=True)
    assert said.split() == [str(loaded)] * 2


def test_a_fork_has_the_cores_of_its_parent() -> None:
    """By itself the runtime leaves it the first one, and a scheduler would take that from the worker."""
    ask = (
        "import os\n"
        "from lorecall.server.engine.start.environment import cpu_environment, load_openmp, openmp_library\n"
        "load_openmp()\n"
        "import torch\n"
        "os.environ.update(cpu_environment(dict(os.environ), [0], openmp_library()))\n"
        "child = os.fork()\n"
        "child and os.waitpid(child, 0)\n"
        "print(sorted(os.sched_getaffinity(0)), flush=True)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "KMP_AFFINITY"}
    said = subprocess.check_output([sys.executable, "-c", ask], env=environ, text=True)
    assert said.splitlines() == [str(sorted(os.sched_getaffinity(0)))] * 2


def test_a_preloaded_runtime_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch is imported already, as it is here."""
    monkeypatch.setenv("LD_PRELOAD", str(openmp_library()))
    assert load_openmp.__wrapped__()


@pytest.mark.parametrize(("stated", "method"), [({}, "fork"), ({METHOD: "spawn"}, None)])
def test_forks_are_the_default_where_the_runtime_is_installed(
    stated: dict[str, str], method: str | None
) -> None:
    """An operator's own word stands; without Intel's runtime vLLM's way does."""
    assert cpu_environment(stated, [0], Path("libiomp5.so")).get(METHOD) == method
    assert METHOD not in cpu_environment(stated, [0], None)


@pytest.mark.parametrize(
    ("stated", "loaded", "method"),
    [("fork", True, "fork"), ("fork", False, "spawn"), ("spawn", True, "spawn"), (None, True, "spawn")],
)
def test_vllms_way_stays_where_a_fork_would_hang(
    stated: str | None, method: str, monkeypatch: pytest.MonkeyPatch, *, loaded: bool
) -> None:
    """And where nobody asked for another."""

    def check_and_update_config(_cls: type, vllm_config: object) -> None:  # noqa: ARG001
        os.environ[METHOD] = "spawn"

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(check_and_update_config))
    monkeypatch.setattr(forked_processes, "load_openmp", lambda: loaded)
    monkeypatch.setenv(METHOD, stated or "")
    if stated is None:
        monkeypatch.delenv(METHOD)
    forked_processes.apply()
    CpuPlatform.check_and_update_config(None)
    assert os.environ[METHOD] == method
