"""What the engine is, and how far it disagrees with itself."""

import asyncio
import dataclasses

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import serving

router = APIRouter(route_class=AnsweringRoute)
_one_at_a_time = asyncio.Lock()


@router.get("/v1/engine")
async def show_engine(raw_request: Request) -> Response:
    """Return engine, base, digest, scheme and measured spread, and the priority below live requests."""
    state = serving(raw_request)
    told = {**dataclasses.asdict(state.info()), "background_priority": state.scoring.background_priority}
    return JSONResponse(told)


@router.get("/v1/engine/selfcheck")
async def selfcheck(raw_request: Request, *, chunk_edge: bool = True) -> Response:
    """Measure the spread now, over the base and every live adapter; it takes as long as its texts take."""
    async with _one_at_a_time:
        found = await serving(raw_request).selfcheck(chunk_edge=chunk_edge)
    return JSONResponse(found.as_json())
