"""`/v1/engine`: what the engine is, and its self-check; `/v1/models`: all models, a page of them, or one."""

import dataclasses
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import serving

router = APIRouter(route_class=AnsweringRoute)

MAX_LISTED = 1_000_000
"""The most models that one page may be asked to have."""


@router.get("/v1/engine")
async def show_engine(raw_request: Request, *, measure: bool = False) -> Response:
    """Return engine, base, digest, scheme, ε, and the priority of background requests.

    ε is null until somebody measured it; `measure=true` does so if nobody has, which takes some seconds.
    """
    state = serving(raw_request)
    info = await state.measured() if measure else state.info()
    body = {**dataclasses.asdict(info), "background_priority": state.scoring.background_priority}
    return JSONResponse(body)


@router.get("/v1/models")
async def list_models(
    raw_request: Request,
    limit: Annotated[int | None, Query(ge=1, le=MAX_LISTED)] = None,
    after: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """Return the models that the caller may use, as vLLM lists them: all, or a page of those that follow one."""
    listed = await serving(raw_request).models.listed(after, limit)
    return Response(listed, media_type="application/json")


@router.get("/v1/models/{name:path}")
async def show_model(name: str, raw_request: Request) -> Response:
    """Return one of the models that `/v1/models` lists for the caller, as OpenAI's API does."""
    card = await serving(raw_request).models.one(name)
    if card is None:
        raise AdapterNotFoundError(f"The model `{name[:200]}` does not exist.", param="model")
    return JSONResponse(card.model_dump())


@router.get("/v1/engine/selfcheck")
async def selfcheck(raw_request: Request, *, chunk_edge: bool = True) -> Response:
    """Measure ε now, over the base and every live adapter."""
    found = await serving(raw_request).selfcheck(chunk_edge=chunk_edge)
    return JSONResponse(found.as_json())
