"""JSON from strangers is read strictly, and otherwise as everybody reads it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.core.refusals import ConfigRefusedError, Reason
from lorecall.adapters.core.strict_json import parse_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_plain_objects_are_read(value: dict[str, Any]) -> None:
    """An ordinary object is parsed as by the standard library."""
    assert parse_object(json.dumps(value).encode(), "x.json") == value


@given(st.binary(max_size=60))
def test_noise_ends_in_a_refusal(raw: bytes) -> None:
    """Bytes that are no JSON object are refused, never anything else."""
    try:
        value = parse_object(raw, "x.json")
    except ConfigRefusedError:
        return
    assert value == json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 1}',
        b'{"x": {"a": 1, "b": 2, "a": 3}}',
        b'{"\\u0061": 1, "a": 2}',
        b'{"x": [{"": 0, "": 0}]}',
    ],
)
def test_duplicate_keys_are_refused_at_any_depth(raw: bytes) -> None:
    """Parsers differ in which of two equal keys they use, so a duplicate is refused."""
    with pytest.raises(ConfigRefusedError, match="twice") as caught:
        parse_object(raw, "x.json")
    assert caught.value.reason is Reason.DUPLICATE_KEY


def test_header_of_many_experts_is_read() -> None:
    """The limit on parts leaves room for an adapter of all experts of 48 layers."""
    entry = {"dtype": "F32", "shape": [4, 16], "data_offsets": [0, 256]}
    header = {f"layer{n}": entry for n in range(48 * 128 * 3 * 2)}
    assert parse_object(json.dumps(header).encode(), "x.json") == header
