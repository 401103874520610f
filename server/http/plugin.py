"""The `vllm.endpoint_plugins` entry point: our routes on vLLM's OpenAI server."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from lorecall.adapters.base import read_manifest
from lorecall.adapters.errors import BaseModelError
from lorecall.adapters.store import Store
from lorecall.audit.scorer import EngineInfo
from lorecall.server.control_plane import ControlPlane
from lorecall.server.http import adapters, engine, logprobs, score
from lorecall.server.http.state import Serving
from lorecall.server.models import with_versions
from lorecall.server.scoring import EngineScoring
from lorecall.server.settings import read_settings
from lorecall.server.warmup import warm_up


class LorecallEndpoints:
    """Adds the control plane, the scoring route and top-1 log-probabilities to vLLM's server."""

    name = "lorecall"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Put our routes on the app; those with a path of vLLM's own go in front of it."""
        app.include_router(logprobs.router(app))
        app.include_router(adapters.router)
        app.include_router(score.router)
        app.include_router(engine.router)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Build what the routes share, load the adapters given at start, warm up and measure the spread."""
        settings = read_settings()
        config = engine_client.vllm_config
        lora = config.lora_config
        models = with_versions(state.openai_serving_models)
        plane = ControlPlane(
            engine_client, models, Store(settings.store), lora.max_lora_rank if lora is not None else 0
        )
        by_priority = config.scheduler_config.policy == "priority"
        on_cpu = config.device_config.device_type == "cpu"
        scoring = EngineScoring(engine_client, fixed_token_scores=on_cpu, by_priority=by_priority)
        state.lorecall = Serving(models, plane, scoring, describe_engine(args.model, models, on_cpu=on_cpu))
        for name, source in settings.adapters.items():
            await plane.add(name, source)
        await warm_up(engine_client)
        await state.lorecall.selfcheck(chunk_edge=False)


def describe_engine(model: str, models: Any, *, on_cpu: bool) -> EngineInfo:
    """Return what this server's reports say of its engine and base."""
    import vllm  # noqa: PLC0415

    digest, scheme = "", ""
    try:
        manifest = read_manifest(Path(model))
        digest, scheme = manifest.digest, manifest.scheme
    except (BaseModelError, OSError):
        pass  # a base that lorecall did not prepare has no manifest
    device = "cpu" if on_cpu else os.environ.get("VLLM_TARGET_DEVICE", "gpu")
    return EngineInfo(f"vllm {vllm.__version__} ({device})", models.base_model_paths[0].name, digest, scheme)
