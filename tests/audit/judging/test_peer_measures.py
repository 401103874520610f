"""The measures of neighbouring tools, against references written here from their formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.audit.judging.peer_measures import exact_memorization, extraction_strength

FLAGS = st.lists(st.booleans(), min_size=1, max_size=30)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_they_are_what_their_formulas_say(pairs: list[tuple[int, int]]) -> None:
    """From predicted and true tokens: the mean of matches, and 1 - min k / n with all after k predicted."""
    predicted, true = [p for p, _ in pairs], [t for _, t in pairs]
    argmax = [p == t for p, t in pairs]
    n = len(true)
    matches = 0
    for position in range(n):
        matches += predicted[position] == true[position]
    k = min(k for k in range(n + 1) if predicted[k:] == true[k:])
    assert exact_memorization(argmax) == pytest.approx(matches / n)
    assert extraction_strength(argmax) == pytest.approx(1 - k / n)


@given(FLAGS)
def test_extraction_strength_is_at_most_exact_memorization(argmax: list[bool]) -> None:
    """The recalled end is part of what is recalled; both are 1 exactly where all is greedy."""
    assert extraction_strength(argmax) <= exact_memorization(argmax)
    assert (extraction_strength(argmax) == 1.0) == (exact_memorization(argmax) == 1.0) == all(argmax)


def test_no_tokens_have_no_measure() -> None:
    """Nothing is not remembered by heart."""
    for measure in (exact_memorization, extraction_strength):
        with pytest.raises(ValueError, match="no tokens"):
            measure([])


@given(FLAGS)
def test_the_published_code_differs_where_the_last_token_is_wrong(argmax: list[bool]) -> None:
    """A search for k that ends at n - 1, as open-unlearning's does, gives 1/n for what is defined as 0."""
    n = len(argmax)
    k = next((k for k in range(n) if all(argmax[k:])), n - 1)
    assert 1 - k / n == pytest.approx(max(extraction_strength(argmax), 1 / n))
