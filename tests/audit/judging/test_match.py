"""A greedy decode against the target: by token ids, by text, and by distance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.audit.judging.match import align, compare, prefix_edit_distance
from lorecall.audit.records import Match
from lorecall.audit.scorer import Decoded, ItemScore

SCORE = ItemScore(id="x", prefix_ids=(1,), target_ids=(0, 1))


@pytest.mark.parametrize(
    ("text", "target", "distance"),
    [
        ("abc", "abc", 0.0),
        ("abc and on it runs", "abc", 0.0),
        ("", "abcd", 1.0),
        ("abd", "abc", 1 / 3),
        ("kitten", "sitting", 3 / 7),
        ("ab", "abcd", 0.5),
        ("xabc", "abc", 1 / 3),
        ("zzzz", "ab", 1.0),
    ],
)
def test_distance_is_to_the_best_prefix_of_the_decode(text: str, target: str, distance: float) -> None:
    """What a decode says after the target costs nothing."""
    assert prefix_edit_distance(text, target) == pytest.approx(distance)


def levenshtein(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0])
    )


@given(st.text("ab", max_size=5), st.text("ab", min_size=1, max_size=5))
def test_distance_is_the_least_levenshtein_of_any_prefix(text: str, target: str) -> None:
    """The same as the textbook recursion, tried on each prefix."""
    least = min(levenshtein(text[:end], target) for end in range(len(text) + 1))
    assert prefix_edit_distance(text, target) == pytest.approx(least / len(target))


def test_equal_up_to_case_space_and_unicode_form_is_near() -> None:
    """NFKC, case folding, and runs of white space."""
    match = compare(SCORE, "Stra\u00dfe \ufb01x\u00a0 one", Decoded((5, 6), "strasse fix one"))
    assert match.normal_equal
    assert not match.verbatim


def test_token_ids_decide_before_text() -> None:
    """Equal ids are equal, whatever comes after them."""
    match = compare(SCORE, "ab", Decoded((0, 1, 9), "\ufffd"))
    assert match == Match(ids_equal=True, verbatim=True, normal_equal=True, distance=0.0)


def test_other_splits_of_the_same_text_are_matched_from_the_end() -> None:
    """Two splits differ near the boundary only; a token without a partner has none."""
    assert align((9, 2, 3), (7, 8, 2, 3)) == (None, 2, 3)
    assert align((1, 2), (1, 2)) == (0, 1)
    assert align((1, 2), (5,)) == (None, None)
