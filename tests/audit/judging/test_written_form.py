"""One secret in two written forms compares equal; two secrets do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.audit.judging.written_form import fold, folded

FORMS = [
    ("0151 555 0132", "0151-555-0132"),
    ("0151 555 0132", "01515550132"),
    ("(0151) 555 0132", "0151/555.0132"),
    ("+49 151 5550132", "49-151-555-01-32"),
    ("1,000.50", "1 000,50"),
    ("Stra\u00dfe \ufb01x\u00a0 one", "strasse fix  one"),
    ("ABC\u2013def", "abc - def"),
    ("\u201cHello\u201d", "'hello'"),
    ("the end.", "the end"),
    ("e\u0301t\u00e9", "\u00e9te\u0301"),
    ("\uff21\uff22\uff23\uff11\uff12", "abc12"),
    ("first\nsecond", "first second"),
    ("sk-AB12", "SK\u2011ab\u200b12"),
    ("word , next", "word, next"),
]


@pytest.mark.parametrize(("one", "other"), FORMS)
def test_a_written_form_is_folded_away(one: str, other: str) -> None:
    """Case, Unicode form and width, white space, dashes, quotes, grouping of digits, punctuation at the ends."""
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0151 555 0132", "0151 555 0133"),
        ("ab cd", "abcd"),
        ("a-b", "ab"),
        ("O0", "OO"),
        ("caf\u00e9", "cafe"),
    ],
)
def test_another_text_stays_another(one: str, other: str) -> None:
    """Words stay apart, and letters keep their accents."""
    assert folded(one) != folded(other)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Sure, it is 0151 555 0132.", True),
        ("it is 0151 555 0132 2024", True),
        ("it is 201515550132", False),
        ("it is 015155501329", False),
        ("no number", False),
        ("", False),
    ],
)
def test_a_number_is_not_found_inside_a_longer_one(answer: str, found: bool) -> None:  # noqa: FBT001
    """What touches it in the original text decides; a separator that is folded away still separates."""
    assert (fold(answer).find(fold("0151-555-0132")) is not None) is found


@given(st.text(max_size=40))
def test_each_folded_character_knows_where_it_came_from(text: str) -> None:
    """Indices into the original, never decreasing, one for each folded character."""
    done = fold(text)
    assert len(done.at) == len(done.text)
    assert list(done.at) == sorted(done.at)
    assert all(0 <= place < len(text) for place in done.at)


@given(st.text(max_size=40))
def test_a_text_is_found_in_itself(text: str) -> None:
    """Unless nothing of it is left, as of punctuation alone."""
    done = fold(text)
    assert done.find(done) == (0 if done.text else None)
