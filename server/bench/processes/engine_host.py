"""A vLLM engine in a process of its own, driven by JSON lines, so that its crash does not end the caller.

Run as `python -m lorecall.server.bench.processes.engine_host '{"model": ..., ...}'` (keyword arguments of
`vllm.LLM`). Each line on stdin is a list of requests that are sent to the engine together; the answer is a
line with the seconds that they took and one object per request.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from lorecall.server.bench.processes.host import MARK
from lorecall.server.engine.cpu.target_scores import SCORE_FROM
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform


def main() -> None:
    """Start the engine, then answer batches until stdin ends."""
    engine = LLM(**json.loads(sys.argv[1]))
    _answer({"ready": True})
    for line in sys.stdin:
        _answer(_run(engine, json.loads(line)))


def _answer(value: Any) -> None:
    print("\n" + MARK + json.dumps(value), flush=True)  # noqa: T201  (stdout is the protocol)


def _run(engine: LLM, requests: list[dict[str, Any]]) -> dict[str, Any]:
    prompts = [{"prompt_token_ids": request["ids"]} for request in requests]
    params = [_params(request) for request in requests]
    adapters = [request.get("adapter") for request in requests]
    loras = [LoRARequest(one["name"], one["id"], one["path"]) if one else None for one in adapters]
    start = time.perf_counter()
    outputs = engine.generate(prompts, params, lora_request=loras, use_tqdm=False)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "answers": [_result(output) for output in outputs]}


def _params(request: dict[str, Any]) -> SamplingParams:
    first = request.get("score_from")
    # On a GPU the tokens to score are named in vLLM's own parameters as well; a CPU's runner refuses those.
    named: dict[str, Any] = {}
    if first and not current_platform.is_cpu():
        rows = np.array(request["ids"][first:], dtype=np.int32)[:, None]
        named = {"prompt_logprob_token_ids": rows, "prompt_logprob_start": first - 1}
    return SamplingParams(
        max_tokens=request["max_tokens"],
        temperature=0.0,
        ignore_eos=True,
        logprobs=request.get("logprobs"),
        prompt_logprobs=request.get("prompt_logprobs"),
        extra_args={SCORE_FROM: first} if first else None,
        skip_reading_prefix_cache=True if first else None,
        **named,
    )


def _result(output: Any) -> dict[str, Any]:
    generated = output.outputs[0]
    ids, prompt, scores = output.prompt_token_ids, output.prompt_logprobs, output.prompt_token_id_logprobs
    chosen = zip(generated.token_ids, generated.logprobs or [], strict=False)
    rows = zip(ids, prompt or [], strict=False)
    return {
        "ids": list(generated.token_ids),
        "cached": output.num_cached_tokens,
        "logprobs": [step[token].logprob for token, step in chosen],
        "prompt_logprobs": [row[token].logprob if row else None for token, row in rows],
        "scores": None if scores is None else scores.tolist(),
    }


if __name__ == "__main__":
    main()
