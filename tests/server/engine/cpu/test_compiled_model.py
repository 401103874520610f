"""Models with adapters through torch.compile: the scores of an eager one, and from vLLM's cache the next time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lorecall.server.bench.processes.host import EngineHost

from tests.server.conftest import ENGINE
from tests.server.engine.cpu.test_grouped_lora import MIXED, TOLERANCE, as_request

COMPILED = {"enforce_eager": False}


def logprobs(engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> list[list[float]]:
    """Of the prompts and answers of one mixed batch."""
    requests = [{**as_request(one, adapters), "prompt_logprobs": 0} for one in MIXED]
    return [
        [one for one in answer["prompt_logprobs"] if one is not None] + answer["logprobs"]
        for answer in engine.run(requests)
    ]


@pytest.mark.engine
def test_a_compiled_model_scores_as_an_eager_one_and_is_kept(
    tiny: Callable[[str], Path],
    adapters: dict[int, dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Base and four adapters; a second start loads what the first compiled, with other modules it does not."""
    environ = {"VLLM_CACHE_ROOT": str(tmp_path), "VLLM_LOGGING_LEVEL": "INFO"}
    found: list[list[list[float]]] = []
    loaded = []
    for own in ({}, COMPILED, COMPILED, {**COMPILED, "lora_target_modules": ["q_proj", "down_proj"]}):
        arguments = {**ENGINE, "model": str(tiny("none")), **own}
        log = tmp_path / f"log-{len(found)}"
        engine = EngineHost(log, arguments, environ=environ)
        try:
            found.append(logprobs(engine, adapters))
        finally:
            engine.close()
        loaded.append("Directly load AOT compilation" in log.read_text())
    assert loaded == [False, False, True, False]
    eager, compiled, again, _ = found
    assert compiled == again
    worst = max(
        abs(a - b)
        for ours, theirs in zip(compiled, eager, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    assert 0 < worst < TOLERANCE
