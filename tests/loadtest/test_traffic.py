"""What `vllm bench serve` is asked, and what is read from its result."""

import json
from pathlib import Path
from typing import Any

import pytest
from lorecall.loadtest.errors import LoadtestError
from lorecall.loadtest.scenario import Traffic
from lorecall.loadtest.target import Target
from lorecall.loadtest.traffic import Sent, arguments, read, send

TRAFFIC = Traffic(requests=3, input_tokens=8, output_tokens=4, concurrency=2, seed=7)
RESULT: dict[str, Any] = {
    "duration": 2.0,
    "completed": 2,
    "failed": 1,
    "request_throughput": 1.0,
    "output_throughput": 4.0,
    **{f"p{p}_{time}_ms": float(p) for p in (50, 99) for time in ("ttft", "itl")},
    **{f"p{p}_e2el_ms": float("nan") for p in (50, 99)},
    "errors": ["", "", "Traceback ...\nConnection refused"],
    "ttfts": [0.05, 0.07, 0.0],
    "itls": [[0.01, 0.03], [], []],
    "start_times": [12.5, 12.0, 0.0],
}


def test_a_target_knows_its_base_and_its_adapters(target: Target) -> None:
    """The base is the model without a parent; its root is where the tokenizer is."""
    assert (target.base, target.root, target.adapters) == ("base", "/base", ["a"])


def test_each_request_goes_to_the_model_that_was_drawn(target: Target, tmp_path: Path) -> None:
    """Round-robin over as many models as requests is the drawn sequence itself; without a rate none is asked."""
    models = ["b", "a", "b"]
    line = arguments(TRAFFIC, models, target, "/base", tmp_path / "bench.json")
    assert line[line.index("--lora-modules") + 1 :] == models
    assert line[line.index("--lora-assignment") + 1] == "round-robin"
    assert line[line.index("--num-prompts") + 1] == str(len(models))
    assert "--request-rate" not in line


def test_a_result_is_read_with_its_failures(tmp_path: Path) -> None:
    """Times and rates under our names, no figure where there is none, the start of the first that was sent."""
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(RESULT))
    served = read(path)
    assert served.values == {
        "requests_per_s": 1,
        "tokens_per_s": 4,
        "ttft_p50_ms": 50,
        "ttft_p99_ms": 99,
        "itl_p50_ms": 50,
        "itl_p99_ms": 99,
        "completed": 2,
        "failed": 1,
    }
    assert (served.began, served.seconds) == (12, 2)
    assert served.errors == ("Connection refused",)
    assert served.requests == (Sent(50.0, 20.0), Sent(70.0, 0.0), Sent(None, None))


@pytest.mark.parametrize("bench", [["false"], ["no-such-command-of-anybody"]])
def test_a_command_without_a_result_is_an_error(target: Target, tmp_path: Path, bench: list[str]) -> None:
    """A result of a run before is never taken for this one's."""
    (tmp_path / "bench.json").write_text(json.dumps(RESULT))
    with pytest.raises(LoadtestError, match=bench[0]):
        send(TRAFFIC, ["a", "a", "a"], target, "/base", tmp_path, bench)
