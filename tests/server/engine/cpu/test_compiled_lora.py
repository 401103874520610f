"""The kernel for adapters is compiled once for a CPU, and says so where it cannot be."""

from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server.engine.cpu import compiled_lora


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give every test a cache of its own, as in a process that has compiled nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_again = compiled_lora.library.__wrapped__
    monkeypatch.setattr(compiled_lora, "library", compile_again)


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second process takes what the first has made; other flags make another."""
    made = compiled_lora.library()
    assert made.is_relative_to(tmp_path)
    before = made.stat().st_mtime_ns
    assert compiled_lora.library() == made
    assert made.stat().st_mtime_ns == before
    monkeypatch.setattr(compiled_lora, "FLAGS", (*compiled_lora.FLAGS, "-g0"))
    assert compiled_lora.library() != made
    assert len(list(made.parent.iterdir())) == 2


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the engine does not start, and the message says what to install."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="no C\\+\\+ compiler"):
        compiled_lora.library()


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler said is in the message."""
    monkeypatch.setattr(compiled_lora, "FLAGS", (*compiled_lora.FLAGS, "-fno-such-flag"))
    with pytest.raises(UsageError, match="no-such-flag"):
        compiled_lora.library()
