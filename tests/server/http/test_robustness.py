"""No request kills the engine: each is answered with a 4xx or a result."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.served import Served
from tests.tiny import VOCABULARY

pytestmark = pytest.mark.engine

EDGES = st.sampled_from([-(2**63), -2, -1, 0, 1, 2, 20, 21, 511, 512, 513, 2**31, 2**63 - 1, 2**63, 10**30])
TOKENS = st.lists(st.sampled_from([-1, 0, 1, VOCABULARY - 1, VOCABULARY, 2**31 - 1, 2**40]), max_size=6)
PROMPTS = st.one_of(
    st.just(""),
    st.just("x" * 2000),
    st.text(max_size=12),
    TOKENS,
    st.just([]),
    st.just([5] * 511),
    st.just([5] * 512),
)
COMPLETION = st.fixed_dictionaries(
    {"prompt": PROMPTS},
    optional={
        "max_tokens": EDGES,
        "min_tokens": EDGES,
        "logprobs": EDGES,
        "prompt_logprobs": EDGES,
        "echo": st.booleans(),
        "temperature": st.sampled_from([-1, 0, 1e-9, 1, 2, 1e30]),
        "top_p": st.sampled_from([-1, 0, 0.5, 1, 2]),
        "top_k": EDGES,
        "n": st.sampled_from([-1, 0, 1, 2, 10**9]),
        "seed": EDGES,
        "repetition_penalty": st.sampled_from([-1, 0, 0.1, 2, 1e30]),
        "logit_bias": st.dictionaries(EDGES.map(str), st.sampled_from([-100, 100, 1e30]), max_size=2),
        "allowed_token_ids": TOKENS,
        "stop_token_ids": TOKENS,
        "vllm_xargs": st.dictionaries(st.just("lorecall_score_from"), EDGES, max_size=1),
        "truncate_prompt_tokens": EDGES,
    },
)
SCORE = st.fixed_dictionaries(
    {
        "items": st.lists(
            st.fixed_dictionaries(
                {"id": st.just("1"), "prefix": st.text(max_size=20), "target": st.text(max_size=20)}
            ),
            max_size=3,
        )
    },
    optional={"framing": st.sampled_from(["raw", "chat", "", "xml"]), "system": st.text(max_size=5)},
)
FUZZ = settings(
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def models(served: Served, int8_adapters: list[Path]) -> list[str]:
    """The base and one adapter."""
    served.post("/v1/adapters", {"name": "fuzzed", "source": str(int8_adapters[0])})
    return [served.base, "fuzzed"]


@settings(FUZZ, max_examples=120)
@given(body=COMPLETION, number=st.integers(0, 1))
def test_completions_survive_any_parameters(
    served: Served, models: list[str], body: dict[str, Any], number: int
) -> None:
    """Absurd generation parameters are answered with a result or a 4xx, and the engine lives."""
    bounded = {"max_tokens": 4, **body}
    answer = served.post("/v1/completions", {"model": models[number], **bounded})
    assert answer.status_code < 500, (body, answer.text[:300])
    assert served.alive


@settings(FUZZ, max_examples=60)
@given(body=SCORE, number=st.integers(0, 1))
def test_scoring_survives_any_text(
    served: Served, models: list[str], body: dict[str, Any], number: int
) -> None:
    """Any text is scored or refused with a reason, and the engine lives."""
    answer = served.post("/v1/score", {"model": models[number], **body})
    assert answer.status_code in {200, 400}, (body, answer.text[:300])
    if answer.status_code == 200:
        assert all(item["error"] or item["p"] for item in answer.json()["items"])
    assert served.alive


def test_a_text_of_the_largest_length_is_served(served: Served, models: list[str]) -> None:
    """No prompt length that the model allows kills the engine, through an adapter or not."""
    for model in models:
        body = {"model": model, "prompt": [7] * 511, "max_tokens": 1, "prompt_logprobs": 1}
        assert served.post("/v1/completions", body).status_code == 200
        assert served.post("/v1/completions", {**body, "prompt": [7] * 513}).status_code == 400
