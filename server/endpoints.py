"""The `vllm.endpoint_plugins` entry point: our routes and our middleware on vLLM's OpenAI server."""

import asyncio
import logging
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.registry.tables import State
from lorecall.server.assembly import build_audits, build_serving
from lorecall.server.auth import own_key
from lorecall.server.engine.processes import interrupted_start
from lorecall.server.engine.start.running import describe_engine
from lorecall.server.error_responses import answer_unreadable_body
from lorecall.server.executors import keep_for_short_calls
from lorecall.server.http import adapters, audits, engine, keys, logprobs, page, score
from lorecall.server.http.gateway import Gateway
from lorecall.server.http.state import Serving
from lorecall.server.lifecycle.chat_templates import with_templates
from lorecall.server.lifecycle.served_models import leave_modules, with_versions
from lorecall.server.lifecycle.stopping import drain_before_shutdown
from lorecall.server.observability.access_log import write_access_log
from lorecall.server.settings import ServerSettings, read_settings
from lorecall.server.warmup import warm_up

logger = logging.getLogger("vllm.lorecall")


class LorecallEndpoints:
    """Adds the control plane, the scoring route, keys and top-1 log-probabilities to vLLM's server."""

    name = "lorecall"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes to the app; one with the same path as vLLM's comes before it."""
        leave_modules()
        settings = read_settings()
        if settings.access_log:
            write_access_log()
        if settings.default_logprobs != "off":
            app.include_router(logprobs.router(app))
        app.include_router(adapters.router)
        app.include_router(keys.router)
        app.include_router(own_key.router)
        app.include_router(audits.router)
        app.include_router(page.router)
        app.include_router(score.router)
        app.include_router(engine.router)
        app.add_exception_handler(AttributeError, answer_unreadable_body)
        app.add_middleware(Gateway, state=app.state)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Build what the routes share, load the registry's adapters and warm up."""
        interrupted_start.check()
        keep_for_short_calls(asyncio.get_running_loop())
        models = with_versions(state.openai_serving_models)
        with_templates(state.online_renderer, models)
        settings = read_settings()
        modules, wrong = models.take_modules(settings.adapters)
        settings = settings.with_adapters(modules)
        described = describe_engine(args.model, models.base_model_paths[0].name, engine_client.vllm_config)
        serving, background = await build_serving(engine_client, models, described, args, settings)
        state.lorecall = serving
        drain_before_shutdown(engine_client, serving.stopping, engine_client.vllm_config.shutdown_timeout)
        state.lorecall_audits, audits_work = build_audits(serving, settings)
        await add_initial_adapters(serving, settings, wrong)
        await warm_up(engine_client)
        interrupted_start.check()
        state.lorecall_tasks = [asyncio.create_task(work) for work in (*background, audits_work)]


async def add_initial_adapters(serving: Serving, settings: ServerSettings, wrong: Sequence[str]) -> None:
    """Add the adapters that are named at the start; bad ones, as in `wrong`, do not stop the others."""
    failed = serving.metrics.initial_adapters_failed
    failed.set(len(wrong))
    for problem in wrong:
        logger.error("%s", problem)
    for name, source in settings.initial_adapters().items():
        try:
            added = await serving.adapters.add(name, source, actor="start", our_own=True)
        except LorecallError as error:
            logger.error("adapter %s is not served: %s", name, error)  # noqa: TRY400  its words say what is wrong
        except Exception:
            logger.exception("adapter %s is not served", name)
        else:
            if added.state is State.LIVE:
                continue
            logger.warning("adapter %s is not served yet: it is %s", name, added.state)
            if added.state is State.AUDITING:
                continue
        failed.inc()
