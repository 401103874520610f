"""Checks a request's API key, its route's scope and the adapter in its path, and answers refused requests."""

from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.auth.limits import Limits
from lorecall.server.auth.request_context import ForbiddenError, RequestContext, current
from lorecall.server.auth.scopes import OPEN, Need, adapter_of, need_of
from lorecall.server.error_responses import error_answer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send


def check_caller(scope: Scope, keys: KeyGuard, context: RequestContext, *, open_metrics: bool) -> Need:
    """Authenticate the caller; return what the route requires, after checking that the key has it.

    Args:
        scope: The request.
        keys: The valid API keys.
        context: Gets the caller's key.
        open_metrics: Whether `/metrics` needs no key.

    Raises:
        UnauthenticatedError: A key is required, and there is none or an unknown one.
        ForbiddenError: The key lacks the scope; or there are no keys, and a browser says that another site's page
            asks for what is not inference.
        AdapterNotFoundError: The caller does not see the adapter that the path names.
    """
    path = path_of(scope)
    method = scope.get("method", "WEBSOCKET")
    need = need_of(method, path, open_metrics=open_metrics)
    if need is OPEN:
        return need
    headers = Headers(scope=scope)
    context.key = keys.authenticate(headers.getlist("authorization"), headers.getlist("x-api-key"))
    if context.key is not None and not need.met_by(context.key):
        wanted = " or ".join(sorted(need.scopes))
        raise ForbiddenError(
            f"the API key {context.key.name!r} may not call {method} {path[:80]}",
            hint=f"needs the scope {wanted}",
        )
    if context.key is None and need.operates and headers.get("sec-fetch-site") == "cross-site":
        raise ForbiddenError(
            f"a page of another site may not call {method} {path[:80]} on a server without API keys",
            hint="make a key, and send it",
        )
    named = adapter_of(path)
    if named is not None and not context.sees(named):
        raise AdapterNotFoundError(f"there is no adapter {named!r}", param="name")
    return need


def path_of(scope: Scope) -> str:
    """Return a request's path without the server's root path."""
    return str(scope["path"].removeprefix(scope.get("root_path", "")))


async def refuse(
    error: LorecallError, scope: Scope, receive: Receive, send: Send, *, close: bool = False
) -> None:
    """Answer with an error in OpenAI's shape; close a websocket, and with `close` any other connection, too."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    answer = error_answer(error)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if close:
        answer.headers["Connection"] = "close"
    await answer(scope, receive, send)


class ApiKeyMiddleware:
    """ASGI middleware of a service without an engine: checks key and scope, and sets `request_context.current`.

    Args:
        app: The application inside.
        keys: The valid API keys.
        limits: What the routes that count texts are charged to.
        open_metrics: Whether `/metrics` needs no key.
    """

    def __init__(self, app: ASGIApp, keys: KeyGuard, limits: Limits, *, open_metrics: bool) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._open_metrics = open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        context = RequestContext(limits=self._limits)
        token = current.set(context)
        try:
            check_caller(scope, self._keys, context, open_metrics=self._open_metrics)
            await self._app(scope, receive, send)
        except LorecallError as error:
            await refuse(error, scope, receive, send)
        finally:
            current.reset(token)
