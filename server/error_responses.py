"""Answers in OpenAI's shape."""

from typing import Any

from fastapi.responses import JSONResponse
from lorecall.adapters.core.errors import LorecallError


def error_answer(error: LorecallError) -> JSONResponse:
    """Return `{"error": {message, type, param, code}}` with the error's HTTP status."""
    return error_body(str(error), error.status, code=error.code, param=error.param)


def error_body(message: str, status: int, *, code: str, param: str | None = None) -> JSONResponse:
    """Return an error answer from its parts."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status)
