"""`POST /v1/score`: the probability of given target tokens, through an adapter or the base."""

import dataclasses
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from lorecall.audit.scorer import ItemScore, Message, Sampling, ScoreItem
from lorecall.audit.scorers.framing import Framing
from lorecall.server.auth.request_context import sees
from lorecall.server.error_responses import AnsweringRoute
from lorecall.server.http.long_answers import long_answer
from lorecall.server.http.state import Serving, serving
from pydantic import BaseModel, ConfigDict, Field
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation

router = APIRouter(route_class=AnsweringRoute)


class Turn(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid")
    role: str = Field(min_length=1)
    content: str


class Item(BaseModel):
    """One text: `target` is scored, `prefix` is given; `messages` are the chat before it."""

    model_config = ConfigDict(extra="forbid")
    id: str
    prefix: str = ""
    target: str
    messages: list[Turn] = []

    def item(self) -> ScoreItem:
        """Return it as the audit knows it."""
        turns = tuple(Message(turn.role, turn.content) for turn in self.messages)
        return ScoreItem(self.id, self.prefix, self.target, messages=turns)


class SamplingScheme(BaseModel):
    """How tokens are drawn, in the order of vLLM's sampler: temperature, top-k, top-p."""

    model_config = ConfigDict(extra="forbid")
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, lt=2**31)


class ScoreRequest(BaseModel):
    """The body of `POST /v1/score`.

    `chat_template_of` names an adapter by whose chat template chats are rendered, also for another model: by
    default it is the model's own.
    """

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    items: list[Item] = Field(min_length=1)
    framing: Framing = "raw"
    system: str | None = None
    sampling: SamplingScheme | None = None
    chat_template_of: str | None = None


@router.post("/v1/score", dependencies=[Depends(validate_json_request)])
@with_cancellation  # type: ignore[untyped-decorator]  # vLLM ships no type for it
async def score(request: ScoreRequest, raw_request: Request) -> Response:
    """Score target tokens, teacher-forced: probability, rank, argmax and its probability of each token."""
    state = serving(raw_request)
    name = request.model or state.engine.base  # as on vLLM's routes
    model = await state.model(name, for_prompt_scores=True)
    items = [item.item() for item in request.items]
    scheme = None if request.sampling is None else Sampling(**request.sampling.model_dump())
    template = model.chat_template
    if of := request.chat_template_of:
        if sees(of) and state.adapters.known(of):
            await state.adapters.loaded(of)
        template = (await state.model(of)).chat_template
    work = state.scoring.score(items, model.lora_request, request.framing, request.system, scheme, template)
    scores = await state.adapters.engine_set.finish(model.lora_request, work)
    return await long_answer(score_body(state, name, model.version, scores))


def score_body(state: Serving, model: str, version: str, scores: list[ItemScore]) -> dict[str, Any]:
    """Return the answer's JSON object; its items are as they are, and are encoded with the rest."""
    return {
        "model": model,
        "version": version,
        "engine": dataclasses.asdict(state.info()),
        "items": scores,
    }
