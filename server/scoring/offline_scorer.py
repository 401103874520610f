"""A vLLM engine without a server, for one audit: the same plugins and scoring, no HTTP."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.adapters.peft_format.adapter import Adapter, read_adapter
from lorecall.adapters.peft_format.companions import (
    NO_COMPANIONS,
    Companions,
    own_template,
    read_companions,
)
from lorecall.server.engine.common.served_modules import EMBEDDINGS, WHY
from lorecall.server.engine.start.environment import (
    check_scheme,
    prepare_environment,
    rank_limit,
    served_dtype,
)
from lorecall.server.engine.start.families import check_family
from lorecall.server.engine.start.running import describe_engine
from lorecall.server.scoring.engine_scorer import EngineScorer
from lorecall.server.scoring.score import EngineScoring, fast_scores


@dataclass(frozen=True)
class OfflineScorer(EngineScorer):
    """Scores through an engine of its own; `offline_scorer` starts one.

    Attributes:
        max_rank: The largest rank that the engine was started for.
        linear_only: Whether the engine puts adapters on linear layers only.
        tokenizer: What the base's tokenizer's files say.
        adapters: By name, the adapter and the engine's request for it.
    """

    max_rank: int
    linear_only: bool = False
    tokenizer: Companions = NO_COMPANIONS
    adapters: dict[str, tuple[Adapter, Any]] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def deploy(self, name: str, folder: Path) -> None:
        """Serve a PEFT folder under a name, with an id that was never used before.

        Raises:
            AdapterError: The folder is no PEFT LoRA adapter, its rank is over `max_rank`, or it adapts what this
                engine puts no adapter on.
        """
        from vllm.lora.request import LoRARequest

        info = read_adapter(folder, vocabulary_scored=self.scoring.fixed_token_scores)
        template = own_template(read_companions(folder, follow_links=True), self.tokenizer)
        info = replace(info, chat_template=template)
        if info.rank > self.max_rank:
            raise AdapterError(
                f"{folder} has rank {info.rank}, over the {self.max_rank} that the engine was started for",
                param="adapter",
            )
        if self.linear_only and any(module.name.rpartition(".")[2] in EMBEDDINGS for module in info.modules):
            raise AdapterError(f"{folder} cannot be served here: {WHY}", param="adapter")
        self.adapters[name] = (info, LoRARequest(name, next(self._ids), str(folder.resolve())))

    def withdraw(self, name: str) -> None:
        """Remove a name, and its weights from the engine."""
        _, request = self.adapters.pop(name)
        self._wait(self.scoring.engine_client.remove_lora(request.lora_int_id))

    def _serving(self, name: str) -> tuple[Adapter, Any]:
        if name not in self.adapters:
            known = ", ".join(sorted(self.adapters)) or "none"
            raise AdapterNotFoundError(f"no adapter {name!r}", hint=f"it has: {known}", param="adapter")
        return self.adapters[name]


@contextmanager
def offline_scorer(base: Path, adapters: dict[str, Path], **engine: Any) -> Iterator[OfflineScorer]:
    """Start an engine over a prepared base, and stop it after the block; its output goes to stderr.

    Args:
        base: A directory made by `lorecall base prepare`.
        adapters: The PEFT folder of each adapter; the largest rank among them is the engine's limit.
        engine: Arguments of vLLM's `AsyncEngineArgs` beside the model, its dtype and LoRA's.

    Raises:
        BaseModelError: The directory is no prepared base, or this machine lacks its kernel.
        AdapterError: A folder is no PEFT LoRA adapter, or its rank is over what vLLM takes.
    """
    manifest = read_base_manifest(base)
    ranks = [read_adapter(folder).rank for folder in adapters.values()]
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    prepare_environment()
    max_rank = rank_limit(ranks)
    check_scheme(str(base))
    check_family(str(base))
    arguments = {
        "model": str(base),
        "served_model_name": manifest.name,
        "dtype": served_dtype(str(base)),
        "enable_lora": True,
        "max_lora_rank": max_rank,
        "disable_log_stats": True,
        "enforce_eager": True,  # compiling takes as long as an ordinary audit
        **engine,
    }
    with _output_on_stderr(), _running_loop() as loop:
        client = asyncio.run_coroutine_threadsafe(_start(arguments), loop).result()
        try:
            on_cpu = client.vllm_config.device_config.device_type == "cpu"
            scorer = OfflineScorer(
                loop,
                EngineScoring(client, by_priority=False, **fast_scores(client.vllm_config)),
                describe_engine(str(base), manifest.name, client.vllm_config, note="offline"),
                max_rank,
                linear_only=not on_cpu,
                tokenizer=read_companions(base, follow_links=True),
            )
            for name, folder in adapters.items():
                scorer.deploy(name, folder)
            yield scorer
        finally:
            loop.call_soon_threadsafe(client.shutdown)


async def _start(arguments: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


@contextmanager
def _running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="offline-engine")
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_finish(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _finish() -> None:
    """Cancel all other tasks of this loop, and wait for them."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def _output_on_stderr() -> Iterator[None]:
    """Redirect the stdout of this process and its children to stderr, because stdout is for reports."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
