"""Warms the engine up before the server is ready: a CPU engine's first requests run at a third of its speed."""

import uuid
from typing import Any

PREFILL_TOKENS = 256
DECODE_TOKENS = 8


async def warm_up(engine_client: Any) -> None:
    """Run one prompt of PREFILL_TOKENS tokens and DECODE_TOKENS steps through the base, twice."""
    from vllm import SamplingParams

    length = min(PREFILL_TOKENS, engine_client.model_config.max_model_len - DECODE_TOKENS - 1)
    vocabulary = engine_client.model_config.get_vocab_size()
    prompt = {"prompt_token_ids": [(7 * index + 3) % vocabulary for index in range(length)]}
    params = SamplingParams(
        max_tokens=DECODE_TOKENS, temperature=0.0, ignore_eos=True, logprobs=1, skip_reading_prefix_cache=True
    )
    for _ in range(2):
        async for _output in engine_client.generate(prompt, params, f"warm-up-{uuid.uuid4().hex}"):
            pass
