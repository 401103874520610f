"""`lorecall audit serve`: the audit routes and the page as a separate service, without an engine."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.stale import Staleness, Terms
from lorecall.audit.scorers.remote_engine import HttpEngine
from lorecall.server.audits.wiring import make_audits, make_limits
from lorecall.server.auth import own_key
from lorecall.server.auth.keyring import KeyGuard, check_exposure, is_loopback
from lorecall.server.auth.middleware import ApiKeyMiddleware
from lorecall.server.auth.request_context import manages, sees
from lorecall.server.error_responses import AnsweringRoute, error_body
from lorecall.server.executors import ask_engine, keep_for_short_calls
from lorecall.server.http import audits, page
from lorecall.server.observability.metrics import AdapterLabels
from lorecall.server.settings import ServerSettings
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

logger = logging.getLogger("lorecall")
MAX_LISTED = 500


def make_app(server: str, registry: Registry, settings: ServerSettings, host: str) -> FastAPI:
    """Return the service's application.

    Args:
        server: URL of the lorecall server that scores.
        registry: Stores the audits and the API keys; closed with the application.
        settings: The settings.
        host: The address that it will listen on.

    Raises:
        UsageError: Other machines could reach it, and there are no API keys.
    """
    guard = KeyGuard(registry, settings.secrets(), settings.api_keys_file, always=not is_loopback(host))
    check_exposure(host, guard)
    limits = make_limits(settings)
    engine, series = HttpEngine(server), CollectorRegistry()
    label = AdapterLabels(settings.metrics_adapters)
    parts = make_audits(registry, engine, settings, series, label, keyed=guard.enforced)
    last = LastAudits(registry.database)
    service = replace(parts.service, live=partial(live_here, last, engine))
    staleness = Staleness(last, lambda: Terms.of(engine.info(), None))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keep_for_short_calls(asyncio.get_running_loop())
        parts.worker.start()
        await limits.limiter.check()
        follow = asyncio.create_task(_follow_keys(guard, settings.poll_seconds))
        yield
        follow.cancel()
        await asyncio.to_thread(parts.worker.close)
        await limits.limiter.aclose()
        registry.close()

    app = FastAPI(title="lorecall audit", lifespan=lifespan)
    app.state.lorecall_audits = service
    app.include_router(audits.router)
    app.include_router(page.router)
    app.include_router(own_key.router)
    app.router.route_class = AnsweringRoute

    @app.get("/health")
    async def health() -> Response:
        """Say that the service is up."""
        return Response()

    @app.get("/v1/adapters")
    async def list_adapters(
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
        after: Annotated[str, Query(max_length=128)] = "",
        contains: Annotated[str, Query(max_length=128)] = "",
    ) -> Response:
        """Return a page of the server's adapters that the caller sees, as that server does."""

        def read() -> list[dict[str, Any]]:
            listed = engine.adapters(after, contains)
            return list(islice((one for one in listed if sees(str(one["name"]))), limit + 1))

        seen = await ask_engine(read)
        stale = await ask_engine(partial(stale_here, staleness, seen[:limit]))
        hidden = {} if manages() else {"source": None, "reason": ""}
        shown = [{**one, **hidden, "stale": stale[one["name"]]} for one in seen[:limit]]
        return JSONResponse({"adapters": shown, "has_more": len(seen) > limit})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the service's series in Prometheus' text format."""
        return Response(generate_latest(series), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(ApiKeyMiddleware, keys=guard, limits=limits, open_metrics=settings.open_metrics)
    return app


def stale_here(staleness: Staleness, listed: list[dict[str, Any]]) -> dict[str, list[str] | None]:
    """Return why each adapter's verdict is stale: as its server says, or by the audits of this service.

    The server knows them all if it has the same registry; with a registry of its own it may know none.
    """
    told = {str(one["name"]): one.get("stale") for one in listed}
    live = {
        name: str(one["live_version"])
        for one in listed
        if told[name := str(one["name"])] is None and one.get("live_version")
    }
    return {**told, **(staleness.shown(live) if live else {})}


def live_here(last: LastAudits, engine: HttpEngine, names: Collection[str]) -> dict[str, str | None]:
    """Return the live version of each name: as the registry says, else the server, which may have another."""
    known = last.live(names)
    if all(name in known for name in names):
        return known
    return {**{str(one["name"]): one.get("live_version") for one in engine.adapters()}, **known}


async def _follow_keys(guard: KeyGuard, seconds: float) -> None:
    """Reload the keys again and again, since the registry's may change."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(guard.reload)
        except LorecallError:
            continue  # the keys stay as they were until the registry answers
        except Exception:  # they are reloaded again, whatever this was
            logger.exception("the API keys could not be reloaded")


async def _refused(_request: Request, error: Exception) -> Response:
    """Answer an unknown path, or a method that the path does not take."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = "no such route" if status == 404 else "the route does not take this method"
    return error_body(message, status, code="not_found" if status == 404 else "invalid_request")
