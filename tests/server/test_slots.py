"""The slots' rank follows from the adapters that are known at the start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.files import CONFIG_FILE
from lorecall.adapters.registry.registry import Registry
from lorecall.server.launch import slot_flags
from lorecall.server.settings import ServerSettings
from lorecall.server.slots import default_rank, named_modules

from tests.adapters import spoiling
from tests.tiny import build_tiny_base


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    one = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    yield one
    one.close()


def registered(registry: Registry, work: Path, name: str) -> int:
    """Register an adapter, and return its rank."""
    info = read_adapter(
        Store(work / "store", reserve_bytes=0).ingest(spoiling.write_adapter(work / name)).path
    )
    registry.stage(name, info.version, source="test", actor="test")
    registry.validated(name, info.version, info, actor="test")
    return info.rank


def test_without_adapters_it_is_32_and_said(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    """With how to raise it."""
    assert default_rank(registry, {}) == 32
    shown = capsys.readouterr().err
    assert "--max-lora-rank 32: no adapter is known yet" in shown
    assert "--max-lora-rank N" in shown


def test_registered_and_named_adapters_count(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest of all, rounded up to what vLLM has; an address may hold any rank that is usual."""
    rank = registered(registry, tmp_path, "acme")
    assert rank <= 8
    assert default_rank(registry, {}) == 8
    named = spoiling.write_adapter(tmp_path / "named")
    spoiling.setting(r=40)(named)
    assert default_rank(registry, {"named": str(named)}) == 64
    spoiling.setting(r=4, rank_pattern={"q_proj": 100})(named)
    assert default_rank(registry, {"named": str(named)}) == 128
    assert default_rank(registry, {"hub": "hf://org/name"}) == 32
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_rank(registry, {"named": "~/named"}) == 128


@pytest.mark.parametrize("text", ['{"r": 9999, "peft_type": "LORA"}', "[" * 100_000, "\udcff", ""])
def test_one_that_will_be_refused_does_not_stop_the_start(
    registry: Registry, tmp_path: Path, text: str
) -> None:
    """It is refused by its name when it is added; the others are served."""
    named = spoiling.write_adapter(tmp_path / "named")
    (named / CONFIG_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert default_rank(registry, {"named": str(named)}) == 32
    assert default_rank(registry, {"named": "~nobody-of-that-name/x", "other": "a\0b"}) == 32


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--lora-modules", "a=/x", "b=/y", "--port", "1"], {"a": "/x", "b": "/y"}),
        (["--lora_modules=a=/x"], {"a": "/x"}),
        (["--lora-modules", '{"name": "a", "path": "/x"}'], {"a": "/x"}),
        (["--lora-modules", "{", "x", "--served-model-name", "c=d"], {}),
        ([], {}),
    ],
)
def test_modules_of_the_command_line(flags: list[str], found: dict[str, str]) -> None:
    """In both of vLLM's forms; what it will refuse is left to it."""
    assert named_modules(flags) == found


def test_the_start_says_what_slots_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In memory, for the rank that was chosen or given; nothing of it without LoRA."""
    base = str(build_tiny_base(tmp_path / "base"))
    settings = ServerSettings(store=tmp_path / "store")
    assert slot_flags(base, ["--dtype", "float32"], settings) == ["--max-lora-rank", "32"]
    assert "8 slots of rank 32 take" in capsys.readouterr().err
    assert slot_flags(base, ["--max-lora-rank", "24", "--max-loras", "2"], settings) == [
        "--max-lora-rank",
        "32",
    ]
    assert "2 slots of rank 32 take" in capsys.readouterr().err
    assert slot_flags(base, ["--max-lora-rank", "16"], settings) == []
    assert slot_flags(base, ["--no-enable-lora"], settings) == []
