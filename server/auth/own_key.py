"""`GET /v1/keys/self`: what the caller's key is, and which of this server's routes it may call."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from lorecall.adapters.access.keys import ApiKey
from lorecall.server.auth.request_context import RequestContext, current
from lorecall.server.auth.scopes import need_of
from lorecall.server.error_responses import AnsweringRoute

router = APIRouter(route_class=AnsweringRoute)


def shown_key(key: ApiKey) -> dict[str, Any]:
    """Return a key without its digest."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "adapters": list(key.patterns),
        "limits": dataclasses.asdict(key.limits),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "sources": list(key.sources.entries) if key.sources is not None else None,
    }


def callable_routes(routes: Iterable[object], key: ApiKey | None) -> list[str]:
    """Return the routes under `/v1/` that a caller may call, as "METHOD /path", by the rules that guard them."""
    return sorted(
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, APIRoute) and route.path.startswith("/v1/")
        for method in route.methods
        if need_of(method, route.path).met_by(key)
    )


@router.get("/v1/keys/self")
async def show_own_key(request: Request) -> Response:
    """Return the caller's key, None where the server asks for none, and what it may call here."""
    key = (current.get() or RequestContext()).key
    shown = None if key is None else shown_key(key)
    return JSONResponse({"key": shown, "routes": callable_routes(request.app.routes, key)})
