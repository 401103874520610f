"""The engine without a server: what can be said without starting one; test_scorers.py starts one."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError, BaseModelError
from lorecall.audit.scorer import EngineInfo
from lorecall.server.scoring.offline_scorer import OfflineScorer, _output_on_stderr, offline_scorer
from lorecall.server.scoring.score import EngineScoring

from tests.tiny import LINEAR_MODULES, build_tiny_adapter


class Client:
    """vLLM's client, as far as adapters are taken out of it."""

    def __init__(self) -> None:
        self.removed: list[int] = []

    def get_num_unfinished_requests(self) -> int:
        """Nothing runs here."""
        return 0

    async def remove_lora(self, number: int) -> bool:
        """Note the id."""
        self.removed.append(number)
        return True


@pytest.fixture
def scorer() -> Iterator[OfflineScorer]:
    """A scorer with room for rank 4, over a client that only removes adapters."""
    client: Any = Client()
    loop = asyncio.new_event_loop()
    scoring = EngineScoring(client, fixed_token_scores=True, by_priority=False)
    yield OfflineScorer(loop, scoring, EngineInfo("vllm", "base"), 4)
    loop.close()


def test_names_come_and_go_and_no_id_is_used_twice(scorer: OfflineScorer, int8_adapters: list[Path]) -> None:
    """Two folders under two names, and the first name again: three ids, and the base has none."""
    numbers = []
    for name, folder in zip(("a", "b"), int8_adapters, strict=False):
        scorer.deploy(name, folder)
        numbers.append(scorer.adapters[name][1].lora_int_id)
    scorer.deploy("a", int8_adapters[1])
    numbers.append(scorer.adapters["a"][1].lora_int_id)
    assert len(set(numbers)) == 3
    assert scorer.adapter("a").version == scorer.adapter("b").version
    assert scorer.framed("chat", "s").adapter("a").rank == 4
    with pytest.raises(AdapterNotFoundError, match="it has: a, b"):
        scorer.adapter("c")


def test_an_adapter_without_room_is_refused(scorer: OfflineScorer, int8_adapters: list[Path]) -> None:
    """The engine was started for rank 4; rank 8 would not load."""
    with pytest.raises(AdapterError, match="has rank 8, over the 4"):
        scorer.deploy("a", int8_adapters[2])
    assert not scorer.adapters


def test_a_gpu_engine_takes_no_adapter_of_lm_head(
    scorer: OfflineScorer, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """The engine would end in the first step that needs it."""
    folder = tmp_path / "head"
    build_tiny_adapter(folder, tiny("int8-w8a8"), rank=2, modules=(*LINEAR_MODULES, "lm_head"))
    scorer.deploy("a", folder)
    with pytest.raises(AdapterError, match=r"linear layers only.*vllm#51594"):
        replace(scorer, linear_only=True).deploy("b", folder)
    assert list(scorer.adapters) == ["a"]


def test_a_folder_that_is_no_prepared_base_starts_nothing(tmp_path: Path) -> None:
    """The manifest is read first."""
    with pytest.raises(BaseModelError, match="no prepared base"), offline_scorer(tmp_path, {}):
        pass


def test_what_an_engine_prints_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Stdout is for the report: whatever a child writes there meanwhile, and nothing before or after."""
    os.write(1, b"before ")
    with _output_on_stderr():
        os.system("echo from the engine")  # noqa: S605  a child of its own
    os.write(1, b"after")
    out, err = capfd.readouterr()
    assert (out, err) == ("before after", "from the engine\n")
