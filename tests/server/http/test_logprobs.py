"""What a request that says nothing of log-probabilities asks for, and one that says something."""

from typing import Any

import pytest
from lorecall.server.http.logprobs import default_response_logprobs
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({}, 1),
        ({"include": []}, None),
        ({"include": None}, None),
        ({"include": ["reasoning.encrypted_content"]}, None),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 2}, None),
    ],
)
def test_a_response_has_the_top_token_unless_the_caller_said_otherwise(said: Any, asked: int | None) -> None:
    """`include` is where OpenAI's API asks for them; what the caller says of it stays."""
    request = ResponsesRequest(model="m", input="x", **said)
    default_response_logprobs(request)
    assert request.to_sampling_params(16, {}).logprobs == asked
