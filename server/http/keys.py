"""`/v1/keys`: the API keys of the registry. The routes need the scope `admin`."""

import asyncio
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from lorecall.adapters.access.keys import Scope, parse_rate_limits, parse_scopes, parse_sources
from lorecall.adapters.core.errors import UsageError
from lorecall.server.auth.own_key import shown_key
from lorecall.server.auth.request_context import actor
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import serving
from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

router = APIRouter(route_class=AnsweringRoute)


class KeyRequest(BaseModel):
    """The body of `POST /v1/keys`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=128)
    scopes: list[str] = Field(min_length=1)
    adapters: list[str] = Field(default=["*"], min_length=1)
    limits: dict[str, Any] = Field(default_factory=dict)
    expires_at: datetime | None = None
    sources: list[str] | None = None


@router.post("/v1/keys", status_code=201, dependencies=[Depends(validate_json_request)])
async def add_key(request: KeyRequest, raw_request: Request) -> Response:
    """Make a key; only this answer holds its secret. The first key must have the scope admin."""
    state = serving(raw_request)
    scopes = parse_scopes(request.scopes)
    if not state.keys.enforced and Scope.ADMIN not in scopes:
        raise UsageError(
            "the first key must have the scope admin: nobody could make or revoke keys otherwise",
            param="scopes",
        )
    expires = request.expires_at.astimezone() if request.expires_at else None
    key, secret = await asyncio.to_thread(
        lambda: state.adapters.registry.keys.add(
            request.name,
            scopes,
            actor=actor(),
            patterns=request.adapters,
            limits=parse_rate_limits(request.limits),
            expires_at=expires,
            sources=parse_sources(request.sources),
        )
    )
    await asyncio.to_thread(state.keys.reload)
    return JSONResponse({**shown_key(key), "secret": secret}, status_code=201)


@router.get("/v1/keys")
async def list_keys(raw_request: Request) -> Response:
    """Return the registry's keys that are not revoked."""
    keys = await asyncio.to_thread(serving(raw_request).adapters.registry.keys.active)
    return JSONResponse({"keys": [shown_key(key) for key in keys]})


@router.delete("/v1/keys/{key_id}")
async def revoke_key(key_id: str, raw_request: Request) -> Response:
    """Revoke a key; it ends at once."""
    state = serving(raw_request)
    await asyncio.to_thread(state.adapters.registry.keys.revoke, key_id, actor=actor())
    await asyncio.to_thread(state.keys.reload)
    return JSONResponse({"id": key_id, "revoked": True})
