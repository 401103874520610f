"""What the routes are given for a model's name."""

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterError
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.server.http.state import NamedModel, Serving


def serving(info: Adapter) -> Serving:
    """A server with one adapter, `acme`."""
    request, loaded = object(), SimpleNamespace(info=info, version=info.version)
    engine_set: Any = SimpleNamespace(of=lambda asked: loaded if asked is request else None)
    models: Any = SimpleNamespace(is_base_model=lambda name: name == "base", lora_requests={"acme": request})
    rest: Any = None
    return Serving(models, SimpleNamespace(engine_set=engine_set), rest, rest, rest, rest)  # type: ignore[arg-type]


def test_an_adapter_that_its_engine_cannot_score_is_decoded_only() -> None:
    """As one of the head on a GPU, whose prompt log-probabilities leave it out: a leak would look clean."""
    info = Adapter(Path("x"), 4, (), 10, "ab", refusal="it adapts lm_head")
    state = serving(info)
    with pytest.raises(AdapterError, match="lm_head"):
        asyncio.run(state.model("acme", for_prompt_scores=True))
    assert asyncio.run(state.model("acme")).version == "ab"
    scored = serving(dataclasses.replace(info, refusal=""))
    assert asyncio.run(scored.model("acme", for_prompt_scores=True)).version == "ab"
    assert asyncio.run(state.model("base", for_prompt_scores=True)) == NamedModel("", None)
