"""Models with adapters through torch.compile: the scores of an eager one, and from vLLM's cache the next time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lorecall.server.bench.processes.host import EngineHost

from tests.server.engine.cpu.test_grouped_lora import MIXED, TOLERANCE, as_request

LOADED = "Directly load AOT compilation"


def logprobs(engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> list[list[float]]:
    """Of the prompts and answers of one mixed batch."""
    requests = [{**as_request(one, adapters), "prompt_logprobs": 0} for one in MIXED]
    return [
        [one for one in answer["prompt_logprobs"] if one is not None] + answer["logprobs"]
        for answer in engine.run(requests)
    ]


@pytest.mark.engine
def test_a_compiled_model_scores_as_an_eager_one_and_is_kept(
    plain_engine: EngineHost,
    start_host: Callable[..., EngineHost],
    tiny: Callable[[str], Path],
    compiled: dict[str, Any],
    adapters: dict[int, dict[str, Any]],
) -> None:
    """Base and four adapters, called from C++; a second start loads what the first compiled."""
    engines = [plain_engine, start_host(tiny("none"), **compiled), start_host(tiny("none"))]
    first, again, eager = (logprobs(engine, adapters) for engine in engines)
    assert [LOADED in engine.log.read_text() for engine in engines] == [False, True, False]
    assert "'cpp_wrapper': True" in plain_engine.log.read_text()
    assert first == again
    calls = "".join(
        path.read_text() for path in Path(compiled["environ"]["VLLM_CACHE_ROOT"]).rglob("*.main.cpp")
    )
    assert all(f'"lorecall::{name}"' in calls for name in ("embed", "add_lora", "begin", "attend"))
    assert "unified_attention" not in calls
    worst = max(
        abs(a - b)
        for ours, theirs in zip(first, eager, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    assert 0 < worst < TOLERANCE
