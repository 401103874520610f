"""ASGI middleware that every request passes: API key, scope, model, rate limits and the adapter version's lease.

It is plain ASGI, so that streamed answers are not buffered. It sets `request_context.current`.
"""

import logging
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError, UsageError
from lorecall.adapters.core.tracing import span, trace_headers
from lorecall.server.auth.limits import texts_in
from lorecall.server.auth.middleware import check_caller, path_of, refuse
from lorecall.server.auth.request_context import RequestContext, current
from lorecall.server.auth.scopes import ADAPTERS, AUDIT
from lorecall.server.http.body import parse_body, read_body
from lorecall.server.http.state import Serving
from lorecall.server.http.stream_end import StreamEnd
from lorecall.server.lifecycle.stopping import StoppingError
from lorecall.server.observability.access_log import REQUEST_ID, AccessLine, replaced, request_id
from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("vllm.lorecall")

SAGEMAKER_PATH = "/invocations"
SAGEMAKER_ADAPTER = "x-amzn-sagemaker-adapter-identifier"
"""On that path vLLM takes the model from this header and ignores the body's."""

METRICS_PATH = "/metrics"
SCRAPE_S = 1.0
"""The least time between two questions to the engine for a scrape: some routers scrape twenty times a second."""
PRIORITY_HEADER = b"x-vllm-priority"
STREAMED = re.compile(r"/v1/adapters/[^/]+/archive|/v1/audits(/estimate)?")
"""Routes that read their bodies themselves, up to a bound of their own."""


async def before_scrape(scope: Scope, serving: Serving) -> None:
    """Ask the engine where its adapters sit, if this is a scrape and the last was `SCRAPE_S` ago.

    An engine that is gone is no error.
    """
    now = time.monotonic()
    if path_of(scope).rstrip("/") != METRICS_PATH or now - serving.scraped < SCRAPE_S:
        return
    serving.scraped = now
    try:
        await serving.adapters.refresh_tiers()
    except Exception:  # vLLM raises whatever its engine raised, and a scrape has to show that too
        logger.warning("the engine does not say where its adapters sit", exc_info=True)


@dataclass(slots=True)
class _Outcome:
    """How a request ended.

    Attributes:
        model: The model that it named; "" if it named none that the caller may see.
        status: The answer's status.
    """

    model: str = ""
    status: int = 500


class Gateway:
    """Checks each request's key, scope, model and limits, and leases its adapter version until it ends.

    Args:
        app: The application inside.
        state: The application's state; `state.lorecall` is set once the engine is up.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it, as all but scrapes while the server stops; trace it, and log it."""
        if scope["type"] not in ("http", "websocket") or scope.get("method") == "OPTIONS":
            await self._app(scope, receive, send)
            return
        serving: Serving = self._state.lorecall
        method, path = scope.get("method", "WEBSOCKET"), path_of(scope)
        identity, context, found = (
            request_id(scope["headers"]),
            RequestContext(limits=serving.limits),
            _Outcome(),
        )
        line = AccessLine(method, path, identity.decode())
        with span("request", headers=Headers(scope=scope), kind=SpanKind.SERVER) as here:
            sent = [(name.encode(), value.encode()) for name, value in (trace_headers() or {}).items()]
            scope = {**scope, "headers": replaced(scope["headers"], (REQUEST_ID, identity), *sent)}
            scraped = path.rstrip("/") == METRICS_PATH
            try:
                with nullcontext() if scraped else serving.stopping.counted():
                    await self._serve(serving, scope, receive, send, context, found)
            except StoppingError as error:
                serving.metrics.refusals.labels(error.code).inc()
                found.status = error.status
                await refuse(error, scope, receive, send, close=True)
            finally:
                line.write(context, found.model, found.status)
                here.set_attributes(
                    {
                        "http.request.method": method,
                        "url.path": path,
                        "http.response.status_code": found.status,
                        "gen_ai.request.model": found.model,
                        "lorecall.key": context.actor,
                        "lorecall.request_id": identity.decode(),
                    }
                )

    async def _serve(
        self,
        serving: Serving,
        scope: Scope,
        receive: Receive,
        send: Send,
        context: RequestContext,
        found: _Outcome,
    ) -> None:
        admission = None
        token, end = current.set(context), StreamEnd(path_of(scope), context, send)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                found.status = message["status"]
            await end.send(message)

        try:
            need = check_caller(scope, serving.keys, context, open_metrics=serving.open_metrics)
            if not context.privileged:
                kept = [(name, value) for name, value in scope["headers"] if name.lower() != PRIORITY_HEADER]
                scope = {**scope, "headers": kept}
            body = b""
            if scope["type"] == "http" and not STREAMED.fullmatch(path_of(scope)):
                body, receive = await read_body(receive, serving.max_body_bytes)
            if scope["type"] == "http" and (need.model or (need is ADAPTERS and scope["method"] != "GET")):
                content = parse_body(body)
                texts = texts_in(content)
                found.model = await self._model(scope, content, serving, texts) if need.model else ""
                admission = await serving.limits.admit(
                    context.key, found.model, texts=texts, audit=need is AUDIT
                )
            await before_scrape(scope, serving)
            async with end:
                await self._app(scope, receive, watched)
        except LorecallError as error:
            serving.metrics.refusals.labels(error.code).inc()
            found.status = error.status
            await refuse(error, scope, receive, send)
        finally:
            context.release()
            current.reset(token)
            if admission is not None:
                await admission.finish(context.tokens)
                if found.model:
                    serving.metrics.count_request(found.model, found.status)

    async def _model(self, scope: Scope, content: Mapping[str, Any], serving: Serving, texts: int) -> str:
        """Return the name of the model that a request names, whatever its content type says, once it is loaded.

        Raises:
            AdapterNotFoundError: There is no such model, or the caller may not see it.
            UsageError: The request holds too many texts.
        """
        if texts > serving.max_items:
            raise UsageError(
                f"{texts} texts, and one request may hold {serving.max_items}",
                hint="send them in parts; LORECALL_MAX_ITEMS of the server is the bound",
                param="items",
            )
        named = content.get("model")
        if path_of(scope) == SAGEMAKER_PATH:
            named = Headers(scope=scope).get(SAGEMAKER_ADAPTER, "")
        name = named if isinstance(named, str) and named else serving.engine.base
        context = current.get()
        if context is not None and context.sees(name):
            if serving.adapters.known(name):
                await serving.adapters.loaded(name)
            if name in serving.models.lora_requests or name in serving.models.base_names:
                return name
        raise AdapterNotFoundError(f"The model `{name[:200]}` does not exist.", param="model")
