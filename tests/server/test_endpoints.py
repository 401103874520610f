"""Our routes on vLLM's application."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from lorecall.server.endpoints import LorecallEndpoints
from vllm.entrypoints.openai.models.serving import OpenAIServingModels

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


@pytest.mark.parametrize(("setting", "routes"), [(None, 2), ("on", 2), ("auto", 2), ("off", 1)])
def test_top1_logprobs_are_a_setting(
    setting: str | None, routes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On by default; off leaves vLLM's own routes alone."""

    async def upstream() -> dict[str, Any]:
        return {}

    monkeypatch.setattr(OpenAIServingModels, "init_static_loras", OpenAIServingModels.init_static_loras)
    if setting is not None:
        monkeypatch.setenv("LORECALL_DEFAULT_LOGPROBS", setting)
    app = FastAPI()
    for path in PATHS:
        app.post(path)(upstream)
    LorecallEndpoints().attach_router(app)
    found = [route.path for route in app.routes if isinstance(route, APIRoute)]
    assert [found.count(path) for path in PATHS] == [routes] * len(PATHS)
