"""Canonical JSON by RFC 8785: the RFC's own examples, and what has no canonical form."""

import hashlib
from typing import Any

import pytest
from lorecall.adapters.core.canonical_json import MAX_INTEGER, canonical, digest, exact
from lorecall.adapters.core.errors import UsageError


def test_the_example_of_the_rfc() -> None:
    """Section 3.2.2 and 3.2.4: numbers, literals, escapes, and keys by their UTF-16 units."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\u000aA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert canonical(value) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3}) == (
        b'{"\xe2\x82\xac":3,"\xf0\x9f\x98\x80":2,"\xef\xac\xb3":1}'
    )


def test_a_number_has_one_form() -> None:
    """What a reader cannot tell apart has one digest: 1 and 1.0, 0 and -0."""
    assert canonical([1.0, -0.0, 1e21, 1e-7]) == b"[1,0,1e+21,1e-7]"
    assert digest([1]) == digest([1.0]) == hashlib.sha256(b"[1]").hexdigest()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (MAX_INTEGER + 1, "beyond 2"),
        (-(2**60), "beyond 2"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        ("\ud800", "surrogate"),
        ({1: 2}, "no JSON"),
        (object(), "no JSON"),
    ],
)
def test_what_has_no_canonical_form_is_refused_unquoted(value: Any, why: str) -> None:
    """A reader that takes numbers as doubles would check another value."""
    with pytest.raises(UsageError, match=why) as caught:
        canonical({"secret": [value]})
    assert "secret" not in str(caught.value)


def test_a_large_integer_can_be_stated_as_a_text() -> None:
    """Only what is too large changes; truth values are no numbers here."""
    assert exact({"seed": 2**53, "n": [MAX_INTEGER, True, -(2**60)], "x": 0.5}) == {
        "seed": "9007199254740992",
        "n": [MAX_INTEGER, True, "-1152921504606846976"],
        "x": 0.5,
    }
