"""The control plane over HTTP: `/v1/adapters`, and vLLM's two adapter routes on top of it."""

import asyncio
import tempfile
from typing import Annotated, Any, BinaryIO
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.core.refusals import FileRefusedError, Reason
from lorecall.server.auth.request_context import RequestContext, actor, current, own_sources
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import Serving, serving
from lorecall.server.lifecycle.description import describe, describe_page, events_page
from lorecall.server.lifecycle.served_models import check_own
from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

router = APIRouter(route_class=AnsweringRoute)
JSON_ONLY = [Depends(validate_json_request)]
SPOOL_BYTES = 1 << 20
MAX_EVENTS = 1000
MAX_LISTED = 500
MAX_ID = (1 << 31) - 1
ReasonGiven = Annotated[str, Field(max_length=2000)]


class AddRequest(BaseModel):
    """The body of `POST /v1/adapters`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    pin: bool = False
    reason: ReasonGiven = ""
    candidates: list[dict[str, Any]] = Field(default_factory=list)
    controls: list[dict[str, Any]] = Field(default_factory=list)

    def snippets(self) -> dict[str, Any]:
        """Return the candidates and controls for the audit that admits the adapter, as they were sent."""
        return self.model_dump(include={"candidates", "controls"})


class PinRequest(BaseModel):
    """The body of `POST /v1/adapters/{name}/pin`."""

    model_config = ConfigDict(extra="forbid")
    pinned: bool = True
    reason: ReasonGiven = ""


class RollbackRequest(BaseModel):
    """The body of `POST /v1/adapters/{name}/rollback`, which may have none."""

    model_config = ConfigDict(extra="forbid")
    reason: ReasonGiven = ""


class OverrideRequest(BaseModel):
    """The body of `POST /v1/adapters/{name}/override`."""

    model_config = ConfigDict(extra="forbid")
    version: str = Field(min_length=1)
    reason: str = Field(min_length=1)


@router.post("/v1/adapters", status_code=201, dependencies=JSON_ONLY)
async def add_adapter(request: AddRequest, raw_request: Request) -> Response:
    """Add an adapter, or move its name to a new version."""
    state = serving(raw_request)
    check_own(request.name)
    added = await state.adapters.add(
        request.name,
        request.source,
        actor=actor(),
        pin=request.pin,
        candidates=request.snippets(),
        asker=own_sources(),
        reason=request.reason,
    )
    return await described(state, request.name, added.version, status=201)


@router.post("/v1/adapters/{name}/archive", status_code=201)
async def upload_adapter(
    name: str,
    raw_request: Request,
    lorecall_reason: Annotated[str, Header(max_length=6000)] = "",
    *,
    pin: Annotated[bool, Query()] = False,
) -> Response:
    """Add an adapter from the archive (zip, tar, tar.gz) that is the request's body.

    Why comes in the header `Lorecall-Reason`, percent-encoded: the body is the archive, and addresses are logged.
    """
    state = serving(raw_request)
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as archive:
        await receive_archive(raw_request, archive, state.max_upload_bytes)  # type: ignore[arg-type]
        reason = unquote(lorecall_reason)
        added = await state.adapters.add(name, archive, actor=actor(), pin=pin, reason=reason)  # type: ignore[arg-type]
    return await described(state, name, added.version, status=201)


@router.get("/v1/adapters")
async def list_adapters(
    raw_request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
    after: Annotated[str, Query(max_length=128)] = "",
    contains: Annotated[str, Query(max_length=128)] = "",
) -> Response:
    """Return a page of the adapters that the caller sees, by name, after a name and with a text in theirs."""
    state = serving(raw_request)
    await state.adapters.refresh_tiers()
    found, more = await asyncio.to_thread(describe_page, state.adapters, after, limit, contains)
    return JSONResponse({"adapters": found, "has_more": more})


@router.get("/v1/adapters/{name}")
async def show_adapter(name: str, raw_request: Request) -> Response:
    """Return one adapter with its versions."""
    return await described(serving(raw_request), name)


@router.get("/v1/adapters/{name}/events")
async def show_events(
    name: str,
    raw_request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    before: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
) -> Response:
    """Return a page of an adapter's events, oldest first: who did what.

    Without a cursor it is the newest page; `before` the first id of a page gives the one before it, and `after`
    the last id what came since.
    """
    plane = serving(raw_request).adapters
    found, more = await asyncio.to_thread(events_page, plane, name, after=after, before=before, limit=limit)
    return JSONResponse({"events": found, "has_more": more})


@router.get("/v1/events")
async def show_all_events(
    raw_request: Request,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    before: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
) -> Response:
    """Return a page of the events of all adapters that the caller sees, and for an admin of the API keys."""
    plane = serving(raw_request).adapters
    found, more = await asyncio.to_thread(events_page, plane, None, after=after, before=before, limit=limit)
    return JSONResponse({"events": found, "has_more": more})


@router.delete("/v1/adapters/{name}")
async def remove_adapter(name: str, raw_request: Request) -> Response:
    """Remove an adapter; its running requests finish, then it is unloaded."""
    state = serving(raw_request)
    before = await asyncio.to_thread(describe, state.adapters, name)
    await state.adapters.remove(name, actor=actor())
    return JSONResponse({**before, "state": "retired", "live_version": None})


@router.post("/v1/adapters/{name}/rollback")
async def rollback_adapter(
    name: str, raw_request: Request, request: RollbackRequest | None = None
) -> Response:
    """Move a name back to the version before."""
    state = serving(raw_request)
    await state.adapters.rollback(name, actor=actor(), reason=request.reason if request else "")
    return await described(state, name)


@router.post("/v1/adapters/{name}/pin", dependencies=JSON_ONLY)
async def pin_adapter(name: str, request: PinRequest, raw_request: Request) -> Response:
    """Pin an adapter in the engine's memory, or unpin it."""
    state = serving(raw_request)
    await state.adapters.pin(name, pinned=request.pinned, actor=actor(), reason=request.reason)
    return await described(state, name)


@router.post("/v1/adapters/{name}/override", dependencies=JSON_ONLY)
async def override_gate(name: str, request: OverrideRequest, raw_request: Request) -> Response:
    """Let a quarantined version go live for a stated reason; who and why is recorded."""
    state = serving(raw_request)
    (current.get() or RequestContext()).require(Scope.ADMIN)
    await state.adapters.override(name, request.version, reason=request.reason, actor=actor())
    return await described(state, name)


@router.post("/v1/load_lora_adapter", dependencies=JSON_ONLY)
async def load_lora_adapter(request: LoadLoRAAdapterRequest, raw_request: Request) -> Response:
    """VLLM's own request and answer, through our pipeline; a version that does not go live says its state."""
    said = await serving(raw_request).models.load_lora_adapter(request)
    return PlainTextResponse(said, 200 if said.startswith("Success") else 202)


@router.post("/v1/unload_lora_adapter", dependencies=JSON_ONLY)
async def unload_lora_adapter(request: UnloadLoRAAdapterRequest, raw_request: Request) -> Response:
    """VLLM's own request and answer, through our pipeline."""
    return PlainTextResponse(await serving(raw_request).models.unload_lora_adapter(request))


async def described(
    state: Serving, name: str, version: str | None = None, *, status: int = 200
) -> JSONResponse:
    """Return an answer that describes an adapter as it is now."""
    await state.adapters.refresh_tiers()
    return JSONResponse(await asyncio.to_thread(describe, state.adapters, name, version), status)


async def receive_archive(raw_request: Request, archive: BinaryIO, limit: int) -> None:
    """Write a request's body to a file.

    Raises:
        FileRefusedError: It is larger than `limit` bytes.
    """
    async for chunk in raw_request.stream():
        archive.write(chunk)
        if archive.tell() > limit:
            raise FileRefusedError(Reason.TOO_LARGE, f"the archive is larger than {limit} bytes")
    archive.seek(0)
