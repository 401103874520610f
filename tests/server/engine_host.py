"""One real vLLM engine in a process of its own, driven by JSON lines: an engine that dies takes no test along.

Run as `python engine_host.py '{"model": ..., ...}'` (keyword arguments of `vllm.LLM`). Each line on stdin is a
list of requests that enter the engine together; the answer is a line with one object per request.
"""

import json
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    """Start the engine, then answer batches until stdin ends."""
    arguments = json.loads(sys.argv[1])
    engine = LLM(**arguments)
    _answer({"ready": True})
    for line in sys.stdin:
        _answer(_run(engine, json.loads(line)))


def _answer(value: Any) -> None:
    sys.__stdout__.write("\nHOST " + json.dumps(value) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _run(engine: Any, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    params, loras = [], []
    for request in requests:
        score_from = request.get("score_from")
        extra = {"lorecall_score_from": score_from} if score_from else None
        params.append(
            SamplingParams(
                max_tokens=request["max_tokens"],
                temperature=0.0,
                ignore_eos=True,
                logprobs=1,
                prompt_logprobs=request.get("prompt_logprobs"),
                extra_args=extra,
                skip_reading_prefix_cache=True if extra else None,
            )
        )
        adapter = request.get("adapter")
        loras.append(LoRARequest(adapter["name"], adapter["id"], adapter["path"]) if adapter else None)
    prompts = [{"prompt_token_ids": request["ids"]} for request in requests]
    outputs = engine.generate(prompts, params, lora_request=loras, use_tqdm=False)
    return [_result(output) for output in outputs]


def _result(output: Any) -> dict[str, Any]:
    generated = output.outputs[0]
    steps = zip(generated.token_ids, generated.logprobs, strict=True)
    prompt = output.prompt_logprobs
    scores = output.prompt_token_id_logprobs
    return {
        "ids": list(generated.token_ids),
        "logprobs": [step[token].logprob for token, step in steps],
        "prompt_logprobs": prompt
        and [row and row[token].logprob for token, row in zip(output.prompt_token_ids, prompt, strict=True)],
        "scores": None if scores is None else scores.tolist(),
    }


if __name__ == "__main__":
    main()
