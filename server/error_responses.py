"""Error answers in OpenAI's shape, and the route class that makes them of our errors."""

import math
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from lorecall.adapters.access.rate_limit import RateLimitedError
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.core.field_errors import describe_error


def error_answer(error: LorecallError) -> JSONResponse:
    """Return `{"error": {message, type, param, code}}` with the error's status; 429 says when to try again."""
    answer = error_body(str(error), error.status, code=error.code, param=error.param)
    if isinstance(error, RateLimitedError):
        answer.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return answer


def error_body(message: str, status: int, *, code: str, param: str | None = None) -> JSONResponse:
    """Return an error answer from its parts."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status)


def unfit_answer(error: RequestValidationError, kind: object) -> JSONResponse:
    """Return the answer to a body or a query that does not fit: which field, without a word of the input.

    Args:
        error: The error; FastAPI's own answer would hold the input.
        kind: The body's type.
    """
    first = error.errors()[0]
    if not isinstance(first, dict):  # a sentence of vLLM's
        return error_body(str(first), 400, code="invalid_request")
    place, *path = first["loc"]
    where, what = (".".join(map(str, path)), first["msg"])
    if place == "body":
        where, what = describe_error({**first, "loc": path}, kind)
    return error_body(f"{where or place}: {what}", 400, code="invalid_request", param=where or place)


class AnsweringRoute(APIRoute):
    """A route that answers errors of ours with `error_answer`, and what does not fit with `unfit_answer`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of one request."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except LorecallError as error:
                return error_answer(error)
            except RequestValidationError as error:
                return unfit_answer(error, self.body_field.field_info.annotation if self.body_field else None)

        return answer


async def answer_unreadable_body(_request: Request, error: Exception) -> Response:
    """Answer 400 where reading a body into its model failed, as vLLM's own validators do on a wrong type.

    Raises:
        Exception: The error came from elsewhere.
    """
    if any(frame.name == "request_body_to_args" for frame in traceback.extract_tb(error.__traceback__)):
        return error_body(f"a field of the body has a wrong type: {error}", 400, code="invalid_request")
    raise error
