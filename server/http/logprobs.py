"""Top-1 log-probabilities with every generated token by default: routes in front of vLLM's own.

The routes take vLLM's own request models, fill in what the caller left out, and call vLLM's own handlers.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

Handler = Callable[[Any, Request], Awaitable[Any]]


def default_chat_logprobs(request: ChatCompletionRequest) -> None:
    """Ask for top-1 log-probabilities unless the caller set `logprobs` (false turns them off)."""
    if not request.echo and not {"logprobs", "top_logprobs"} & request.model_fields_set:
        request.logprobs = True
        request.top_logprobs = 1


def default_completion_logprobs(request: CompletionRequest, raw: Any) -> None:
    """Ask for top-1 log-probabilities unless the caller set `logprobs` (null or false turns them off).

    With `echo`, log-probabilities would be those of the prompt as well, so they stay off unless asked for.
    """
    if "logprobs" not in request.model_fields_set:
        request.logprobs = None if request.echo else 1
    elif isinstance(raw, dict) and raw.get("logprobs") is False:
        request.logprobs = None


def default_response_logprobs(request: ResponsesRequest) -> None:
    """Ask for top-1 log-probabilities unless the caller set `include` ([] turns them off) or `top_logprobs`."""
    if not {"include", "top_logprobs"} & request.model_fields_set:
        request.include = ["message.output_text.logprobs"]
        request.top_logprobs = 1


def upstream_handler(app: FastAPI, path: str) -> Handler:
    """Return vLLM's own handler of POST `path`.

    Raises:
        RuntimeError: If this vLLM has no such route.
    """
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path == path and "POST" in route.methods:
            return route.endpoint
    raise RuntimeError(f"this vLLM has no POST {path}")


def router(app: FastAPI) -> APIRouter:
    """Return the three routes, bound to the handlers that `app` has now.

    `/v1/messages` has none: Anthropic's answers have no place for log-probabilities.
    """
    routes = APIRouter()
    chat = upstream_handler(app, "/v1/chat/completions")
    completion = upstream_handler(app, "/v1/completions")
    respond = upstream_handler(app, "/v1/responses")
    guard = [Depends(validate_json_request)]

    @routes.post("/v1/chat/completions", dependencies=guard)
    async def create_chat_completion(request: ChatCompletionRequest, raw_request: Request) -> Any:
        default_chat_logprobs(request)
        return await chat(request, raw_request)

    @routes.post("/v1/completions", dependencies=guard)
    async def create_completion(request: CompletionRequest, raw_request: Request) -> Any:
        default_completion_logprobs(request, await raw_request.json())
        return await completion(request, raw_request)

    @routes.post("/v1/responses", dependencies=guard)
    async def create_response(request: ResponsesRequest, raw_request: Request) -> Any:
        if not raw_request.app.state.online_renderer.use_harmony:  # vLLM has none for gpt-oss
            default_response_logprobs(request)
        return await respond(request, raw_request)

    return routes
