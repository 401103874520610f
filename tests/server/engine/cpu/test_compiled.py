"""Our kernels are compiled once for a CPU, on torch's threads, and it is said where that cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server.engine.cpu import compiled

THREADS = """
import os, torch
before = torch.get_num_threads()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # as vLLM binds a worker's main thread
from lorecall.server.engine.cpu import grouped_lora, int8_exact
grouped_lora.load_kernel()
int8_exact.load_kernel()
torch.ones(512, 512) @ torch.ones(512, 512)
maps = {line.split()[-1] for line in open("/proc/self/maps") if "/lib" in line and "omp" in line.split("/")[-1]}
print(before, torch.get_num_threads(), len(maps))
"""


def test_torch_keeps_its_threads_and_its_runtime() -> None:
    """The kernels change no number of threads, and bring no second OpenMP runtime into the process."""
    ended = subprocess.run(
        [sys.executable, "-c", THREADS],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert ended.stdout.split() == ["2", "2", "1"]


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel that is compiled in no time, and a cache of its own, as in a process that has compiled nothing."""
    (tmp_path / "tiny.cpp").write_text("int one() { return 1; }")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.usefixtures("_tiny")
def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second process takes what the first has made; other flags make another."""
    made = compiled.library("tiny")
    assert made.is_relative_to(tmp_path)
    before = made.stat().st_mtime_ns
    assert compiled.library("tiny") == made
    assert made.stat().st_mtime_ns == before
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-g0"))
    assert compiled.library("tiny") != made
    assert len(list(made.parent.iterdir())) == 2


@pytest.mark.usefixtures("_tiny")
def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the engine does not start, and the message says what to install."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="no C\\+\\+ compiler"):
        compiled.library("tiny")


@pytest.mark.usefixtures("_tiny")
def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler said is in the message."""
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-fno-such-flag"))
    with pytest.raises(UsageError, match="no-such-flag"):
        compiled.library("tiny")
