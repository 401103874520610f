"""No field of any request, alone or with another, ends the engine or is answered with a 5xx.

The fields are those of the running server's own OpenAPI document, so one that vLLM adds is tried as well.
"""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.served import Served

pytestmark = pytest.mark.engine

SCORE_FROM = {"lorecall_score_from": st.sampled_from(["x", 999_999, -1, 0, True, 1e9, None, [1], {}])}
HOSTILE: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, -1, 0, 2, 2**31, 2**63, -(2**63), 2**64, 10**400, 1e30, -0.5]),
    st.sampled_from(["", "x", "x" * 5000, "\ud800", "\x00", "auto", "required"]),
    st.sampled_from(
        [[], [[]], [-1], [2**40], ["x"], [None], [{}], {}, {"x": 1}, {"x": -1e300}, {"999999": 1}]
    ),
    st.sampled_from([{"regex": "("}, {"regex": "(a*)*b"}, {"grammar": "x"}, {"choice": []}, {"json": "{"}]),
    st.sampled_from([{"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}]),
    st.fixed_dictionaries(SCORE_FROM),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=8),
)
JSON = {"Content-Type": "application/json"}
MESSAGES = [{"role": "user", "content": "To be"}]
MINIMAL: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "To be, or", "max_tokens": 2},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [MESSAGES], "max_tokens": 2},
    "/v1/responses": {"input": "To be", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/tokenize": {"prompt": "To be"},
    "/detokenize": {"tokens": [5]},
    "/generative_scoring": {"query": "a", "items": ["b"], "label_token_ids": [5, 6]},
    "/v1/score": {"items": [{"id": "1", "prefix": "To be", "target": " or"}]},
    "/v1/audits": {"adapter": "none", "candidates": [{"id": "1", "prefix": "a", "target": "b"}]},
    "/v1/adapters": {"name": "none", "source": "/nowhere"},
}
"""A request of each route that holds no field beyond those it needs."""
UNDOCUMENTED = {
    "/tokenize": ("prompt", "messages", "model", "chat_template"),
    "/v1/audits": ("policy", "seed"),
}
"""Fields of the bodies for which the OpenAPI document names no schema."""
CASES = settings(
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def fields(served: Served) -> list[tuple[str, str]]:
    """Every (route, field) of the routes above."""
    api = served.http.get("/openapi.json").json()
    found = []
    for path in MINIMAL:
        schema = api["paths"][path]["post"].get("requestBody", {}).get("content", {})
        named = schema.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
        names = list(api["components"]["schemas"][named]["properties"]) if named else UNDOCUMENTED[path]
        found += [(path, name) for name in names]
    assert len(found) > 200  # the document is really read
    return found


def try_bodies(served: Served, fields: list[tuple[str, str]], data: st.DataObject) -> None:
    """Send one request with a hostile value in one field, and one with hostile values in two."""
    path, name = data.draw(st.sampled_from(fields))
    other = data.draw(st.sampled_from([field for route, field in fields if route == path]))
    one = {**MINIMAL[path], name: data.draw(HOSTILE)}
    for body in (one, {**one, other: data.draw(HOSTILE)}):
        answer = served.http.post(path, content=json.dumps(body), headers=JSON)
        assert answer.status_code < 500, (path, body, answer.text[:300])
        assert served.alive


@settings(CASES, max_examples=300)
@given(data=st.data())
def test_no_field_ends_the_engine(served: Served, fields: list[tuple[str, str]], data: st.DataObject) -> None:
    """600 requests, each of one or two fields with values that no caller should send: no 5xx, no death."""
    try_bodies(served, fields, data)


@pytest.mark.soak
@settings(CASES, max_examples=5000)
@given(data=st.data())
def test_no_field_ends_the_engine_in_a_long_run(
    served: Served, fields: list[tuple[str, str]], data: st.DataObject
) -> None:
    """The same over 10,000 requests."""
    try_bodies(served, fields, data)
