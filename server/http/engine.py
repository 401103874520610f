"""`/v1/engine`: what the engine is, and its self-check; `/v1/models/{name}`: one model."""

import dataclasses

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import serving

router = APIRouter(route_class=AnsweringRoute)


@router.get("/v1/engine")
async def show_engine(raw_request: Request, *, measure: bool = False) -> Response:
    """Return engine, base, digest, scheme, ε, and the priority of background requests.

    ε is null until somebody measured it; `measure=true` does so if nobody has, which takes some seconds.
    """
    state = serving(raw_request)
    info = await state.measured() if measure else state.info()
    body = {**dataclasses.asdict(info), "background_priority": state.scoring.background_priority}
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
    found = await serving(raw_request).selfcheck(chunk_edge=chunk_edge)
    return JSONResponse(found.as_json())
