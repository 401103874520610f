"""Counts tokens and latencies by adapter around the engine client's `generate`, which every request calls."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from lorecall.server.auth.request_context import current
from lorecall.server.engine.common.version_names import public_name
from lorecall.server.observability.metrics import Metrics


def meter(engine_client: Any, metrics: Metrics, base: str) -> None:
    """Make an engine client count tokens and latencies by adapter, and add the tokens to the current request.

    Args:
        engine_client: vLLM's client of the engine.
        metrics: What is counted.
        base: The base's name, for requests without an adapter.
    """
    generate = engine_client.generate

    async def metered(
        prompt: Any, sampling_params: Any, request_id: str, *, lora_request: Any = None, **others: Any
    ) -> AsyncIterator[Any]:
        name = base if lora_request is None else public_name(lora_request.lora_name)
        tally = _Tally(metrics, metrics.label(name), is_delta=_is_delta(sampling_params))
        stream = generate(prompt, sampling_params, request_id, lora_request=lora_request, **others)
        try:
            async with contextlib.aclosing(stream):
                async for output in stream:
                    tally.see(output)
                    yield output
        finally:
            tally.close()

    engine_client.generate = metered


def _is_delta(sampling_params: Any) -> bool:
    kind = getattr(sampling_params, "output_kind", None)
    return getattr(kind, "name", "") == "DELTA"


class _Tally:
    """Tokens and times of one generation."""

    def __init__(self, metrics: Metrics, label: str, *, is_delta: bool) -> None:
        self._metrics = metrics
        self._label = label
        self._is_delta = is_delta
        self._started = time.perf_counter()
        self._first: float | None = None
        self._last = self._started
        self._prompt = 0
        self._generated: dict[int, int] = {}

    def see(self, output: Any) -> None:
        """Count one output of the engine."""
        self._prompt = len(output.prompt_token_ids or ())
        for one in output.outputs:
            before = self._generated.get(one.index, 0) if self._is_delta else 0
            self._generated[one.index] = before + len(one.token_ids)
        self._last = time.perf_counter()
        stats = getattr(output, "metrics", None)
        if self._first is None and self._is_delta:
            self._first = self._last - self._started
        elif output.finished and stats is not None and stats.first_token_latency:
            self._first = stats.first_token_latency

    def close(self) -> None:
        """Record the counts, also those of a generation that was cancelled."""
        generated = sum(self._generated.values())
        self._metrics.tokens.labels(self._label, "prompt").inc(self._prompt)
        self._metrics.tokens.labels(self._label, "generated").inc(generated)
        if self._first is not None:
            self._metrics.first_token.labels(self._label).observe(self._first)
            if generated > len(self._generated):
                steps = generated / len(self._generated) - 1
                spent = max(0.0, self._last - self._started - self._first)
                self._metrics.inter_token.labels(self._label).observe(spent / steps)
        context = current.get()
        if context is not None:
            context.tokens += self._prompt + generated
