"""ASGI middleware that every request passes: API key, scope, model, rate limits and the adapter version's lease.

It is plain ASGI, so that streamed answers are not buffered. It sets `request_context.current`.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from lorecall.adapters.access.rate_limit import AdmittedRequest, RateLimiter, RateLimits
from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.server.auth.middleware import check_caller, path_of, refuse
from lorecall.server.auth.request_context import RequestContext, current
from lorecall.server.http.body import parse_body, read_body
from lorecall.server.http.state import Serving
from lorecall.server.http.stream_end import StreamEnd
from starlette.datastructures import Headers, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAGEMAKER_PATH = "/invocations"
SAGEMAKER_ADAPTER = "x-amzn-sagemaker-adapter-identifier"
"""On that path vLLM takes the model from this header and ignores the body's."""

PRIORITY_HEADER = b"x-vllm-priority"
STREAMED = re.compile(r"/v1/adapters/[^/]+/archive|/v1/audits")
"""Routes that read their bodies themselves, up to a bound of their own."""


class Gateway:
    """Checks each request's key, scope, model and limits, and leases its adapter version until it ends.

    Args:
        app: The application inside.
        state: The application's state; `state.lorecall` is set once the engine is up.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state
        self._limiter = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in ("http", "websocket") or scope.get("method") == "OPTIONS":
            await self._app(scope, receive, send)
            return
        serving: Serving = self._state.lorecall
        context, admission, model, status = RequestContext(), None, "", 500
        token, end = current.set(context), StreamEnd(path_of(scope), context, send)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await end.send(message)

        try:
            need = check_caller(scope, serving.keys, context, open_metrics=serving.open_metrics)
            if not context.privileged:
                kept = [(name, value) for name, value in scope["headers"] if name.lower() != PRIORITY_HEADER]
                scope = {**scope, "headers": kept}
            body = b""
            if scope["type"] == "http" and not STREAMED.fullmatch(path_of(scope)):
                body, receive = await read_body(receive, serving.max_body_bytes)
            if need.model and scope["type"] == "http":
                model = await self._model(scope, body, serving)
                admission = self._admit(serving, context, model)
            async with end:
                await self._app(scope, receive, watched)
        except LorecallError as error:
            serving.metrics.refusals.labels(error.code).inc()
            status = error.status
            await refuse(error, scope, receive, send)
        finally:
            context.release()
            current.reset(token)
            if admission is not None:
                admission.finish(context.tokens)
                serving.metrics.count_request(model, status)

    async def _model(self, scope: Scope, body: bytes, serving: Serving) -> str:
        """Return the name of the model that a request names, whatever its content type says, once it is loaded.

        Raises:
            AdapterNotFoundError: There is no such model, or the caller may not see it.
            UsageError: The body holds a value that no engine can use.
        """
        named = parse_body(body).get("model")
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

    def _admit(self, serving: Serving, context: RequestContext, model: str) -> AdmittedRequest:
        limits: dict[str, RateLimits] = {}
        if context.key is not None:
            limits[f"API key {context.key.name!r}"] = context.key.limits
        limits[f"model {model!r}"] = limits_of(model, serving.adapter_limits)
        return self._limiter.admit(limits)


def limits_of(model: str, by_pattern: Mapping[str, RateLimits]) -> RateLimits:
    """Return the limits of the first pattern that a model's name matches, or none."""
    found = (limits for pattern, limits in by_pattern.items() if fnmatchcase(model, pattern))
    return next(found, RateLimits())
