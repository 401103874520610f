"""`POST /v1/score`: the probability of given target tokens, through an adapter or the base."""

import dataclasses
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.framing import Framing
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.state import Serving, serving
from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation

router = APIRouter(route_class=AnsweringRoute)


class Item(BaseModel):
    """One text: `target` is scored, `prefix` is given."""

    model_config = ConfigDict(extra="forbid")
    id: str
    prefix: str
    target: str


class ScoreRequest(BaseModel):
    """The body of `POST /v1/score`."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    items: list[Item] = Field(min_length=1)
    framing: Framing = "raw"
    system: str | None = None


@router.post("/v1/score", dependencies=[Depends(validate_json_request)])
@with_cancellation  # type: ignore[untyped-decorator]  # vLLM ships no type for it
async def score(request: ScoreRequest, raw_request: Request) -> Response:
    """Score target tokens, teacher-forced: probability, rank, argmax and its probability of each token."""
    state = serving(raw_request)
    name = request.model or state.engine.base  # as on vLLM's routes
    model = await state.model(name, for_prompt_scores=True)
    items = [ScoreItem(item.id, item.prefix, item.target) for item in request.items]
    work = state.scoring.score(items, model.lora_request, request.framing, request.system)
    scores = await state.adapters.engine_set.finish(model.lora_request, work)
    return JSONResponse(score_body(state, name, model.version, scores))


def score_body(state: Serving, model: str, version: str, scores: list[Any]) -> dict[str, Any]:
    """Return the answer's JSON object."""
    return {
        "model": model,
        "version": version,
        "engine": dataclasses.asdict(state.info()),
        "items": [dataclasses.asdict(one) for one in scores],
    }
