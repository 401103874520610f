"""`/v1/engine`: what the engine is, and its self-check; `/v1/models/{name}`: one model."""

import asyncio
import dataclasses

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import serving

router = APIRouter(route_class=AnsweringRoute)
_one_at_a_time = asyncio.Lock()


@router.get("/v1/engine")
async def show_engine(raw_request: Request) -> Response:
    """Return engine, base, digest, scheme, measured ε, and the priority of background requests."""
    state = serving(raw_request)
    body = {**dataclasses.asdict(state.info()), "background_priority": state.scoring.background_priority}
    return JSONResponse(body)


@router.get("/v1/models/{name:path}")
async def show_model(name: str, raw_request: Request) -> Response:
    """Return one of the models that `/v1/models` lists for the caller, as OpenAI's API does."""
    listed = await serving(raw_request).models.show_available_models()
    for card in listed.data:
        if card.id == name:
            return JSONResponse(card.model_dump())
    raise AdapterNotFoundError(f"The model `{name[:200]}` does not exist.", param="model")


@router.get("/v1/engine/selfcheck")
async def selfcheck(raw_request: Request, *, chunk_edge: bool = True) -> Response:
    """Measure ε now, over the base and every live adapter."""
    async with _one_at_a_time:
        found = await serving(raw_request).selfcheck(chunk_edge=chunk_edge)
    return JSONResponse(found.as_json())
