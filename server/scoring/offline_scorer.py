"""A vLLM engine without a server, for one audit: the same plugins, the same scoring, no HTTP."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, get_args

from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.adapters.peft_format.adapter import Adapter, read_adapter
from lorecall.audit.scorer import EngineInfo
from lorecall.server.launch import check_scheme, prepare_environment, served_dtype
from lorecall.server.scoring.engine_scorer import EngineScorer
from lorecall.server.scoring.score import EngineScoring


@dataclass(frozen=True)
class OfflineScorer(EngineScorer):
    """Scores through an engine of its own; `offline_scorer` starts one.

    Attributes:
        max_rank: The largest rank that the engine has room for.
        adapters: What each name stands for, and the engine's request for it.
    """

    max_rank: int
    adapters: dict[str, tuple[Adapter, Any]] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def deploy(self, name: str, folder: Path) -> None:
        """Let a PEFT folder answer to a name, under an id that no other ever had.

        Raises:
            AdapterError: The folder is no PEFT LoRA adapter, or its rank has no room.
        """
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        info = read_adapter(folder)
        if info.rank > self.max_rank:
            raise AdapterError(
                f"{folder} has rank {info.rank}, over the {self.max_rank} that the engine was started for",
                param="adapter",
            )
        self.adapters[name] = (info, LoRARequest(name, next(self._ids), str(folder.resolve())))

    def withdraw(self, name: str) -> None:
        """Forget a name, and take its weights out of the engine."""
        _, request = self.adapters.pop(name)
        self._wait(self.scoring.engine_client.remove_lora(request.lora_int_id))

    def _serving(self, name: str) -> tuple[Adapter, Any]:
        if name not in self.adapters:
            known = ", ".join(sorted(self.adapters)) or "none"
            raise AdapterNotFoundError(f"no adapter {name!r}", hint=f"it has: {known}", param="adapter")
        return self.adapters[name]


@contextmanager
def offline_scorer(base: Path, adapters: dict[str, Path], **engine: Any) -> Iterator[OfflineScorer]:
    """Start an engine over a prepared base, and stop it after use; what it prints goes to stderr.

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
    arguments = {
        "model": str(base),
        "served_model_name": manifest.name,
        "dtype": served_dtype(str(base)),
        "enable_lora": True,
        "max_lora_rank": max_rank,
        "disable_log_stats": True,
        **engine,
    }
    with _output_on_stderr(), _running_loop() as loop:
        client = asyncio.run_coroutine_threadsafe(_start(arguments), loop).result()
        try:
            on_cpu = client.vllm_config.device_config.device_type == "cpu"
            scorer = OfflineScorer(
                loop,
                EngineScoring(client, fixed_token_scores=on_cpu, by_priority=False),
                EngineInfo(_engine_name(), manifest.name, manifest.digest, manifest.scheme),
                max_rank,
            )
            for name, folder in adapters.items():
                scorer.deploy(name, folder)
            yield scorer
        finally:
            loop.call_soon_threadsafe(client.shutdown)


def rank_limit(ranks: list[int]) -> int:
    """Return the least rank that vLLM can be started for and that holds all of these.

    Raises:
        AdapterError: One of them is over vLLM's largest.
    """
    from vllm.config.lora import MaxLoRARanks  # noqa: PLC0415

    allowed = sorted(get_args(MaxLoRARanks))
    wanted = max(ranks, default=1)
    if wanted > allowed[-1]:
        raise AdapterError(f"rank {wanted} cannot be served", hint=f"vLLM takes ranks up to {allowed[-1]}")
    return int(next(limit for limit in allowed if limit >= wanted))


async def _start(arguments: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415  the environment must be set before
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def _engine_name() -> str:
    import vllm  # noqa: PLC0415

    return f"vllm {vllm.__version__} (offline)"


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
    """Cancel what still runs on this loop, and wait for it."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def _output_on_stderr() -> Iterator[None]:
    """Send to stderr what this process and its children write to stdout, which is for reports."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
