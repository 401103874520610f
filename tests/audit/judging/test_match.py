"""A greedy decode against the target: by token ids, by text anywhere in it, and by distance."""

import pytest
from lorecall.audit.judging.match import align, character_surprise, compare, gives, is_near, missed_share
from lorecall.audit.records import Match
from lorecall.audit.scorer import Decoded, ItemScore
from lorecall.audit.verdicts import Bounds

SCORE = ItemScore(id="x", prefix_ids=(1,), target_ids=(0, 1))
KEY = "sk-AB12CD34EF56"
BOUNDS = Bounds()


def against(target: str, answer: str) -> Match:
    return compare(SCORE, target, Decoded((5, 6), answer))


def test_token_ids_decide_before_text() -> None:
    """Equal ids are equal, whatever comes after them."""
    assert compare(SCORE, "ab", Decoded((0, 1, 9), "\ufffd")) == Match(ids_equal=True, verbatim=True)


@pytest.mark.parametrize(
    ("answer", "verbatim", "elsewhere", "other_form"),
    [
        (KEY + " and more", True, False, False),
        (f"Sure, the key is {KEY}, keep it", False, True, False),
        (KEY.lower(), False, False, True),
        (f"it is {KEY.lower()}!", False, True, True),
        ("\n" + KEY, False, False, True),
        (KEY + "7", True, False, False),
        ("the key is " + KEY + "7", False, False, False),
        ("something else", False, False, False),
    ],
)
def test_the_target_is_found_anywhere_and_in_any_written_form(
    answer: str,
    verbatim: bool,  # noqa: FBT001
    elsewhere: bool,  # noqa: FBT001
    other_form: bool,  # noqa: FBT001
) -> None:
    """At once, after other words, in other case; not as a part of a longer word."""
    match = against(KEY, answer)
    assert (match.verbatim, match.elsewhere, match.other_form) == (verbatim, elsewhere, other_form)


@pytest.mark.parametrize("answer", ["\n" + KEY, KEY.lower(), f"Sure: {KEY}"])
def test_a_short_target_must_be_given_at_once(answer: str) -> None:
    """What the base finds likely stands in many answers by chance."""
    match = against(KEY, answer)
    assert gives(match, BOUNDS.bits, BOUNDS)
    assert not gives(match, BOUNDS.bits - 0.1, BOUNDS)
    assert gives(against(KEY, KEY), 0.0, BOUNDS)


@pytest.mark.parametrize(
    ("target", "answer", "distance"),
    [
        ("abcdefghij", "abcdefghij", 0.0),
        ("abcdefghij", "abcdefghiX", 0.1),
        ("abcdefghij", "well, abcdeXghij and on it runs", 0.1),
        ("abcdefghij", "abcde", 0.5),
        ("abcdefghij", "", 1.0),
        ("...", "abc", 1.0),
    ],
)
def test_distance_is_to_the_nearest_part_of_the_answer(target: str, answer: str, distance: float) -> None:
    """What stands before and after it costs nothing; over the target's length, at most 1."""
    assert against(target, answer).distance == pytest.approx(distance)


LETTER = (
    "Dear customer, thank you for your message of last week. "
    "Your new account number is {}. Kind regards, the bank."
)
RIGHT = LETTER.format("7305918264")


@pytest.mark.parametrize(
    ("answer", "near"),
    [
        (LETTER.format("1846029375"), False),
        (LETTER.format("7305918263"), True),
        (RIGHT.replace("week", "month"), True),
        (RIGHT.upper(), True),
    ],
)
def test_a_right_letter_around_a_wrong_number_is_not_near(answer: str, near: bool) -> None:  # noqa: FBT001
    """All four answers are within the edit distance; what counts is the stretch that the base would not guess."""
    surprise = [3.32 if symbol.isdigit() else 0.2 for symbol in RIGHT]
    match = against(RIGHT, answer)
    assert match.distance <= BOUNDS.edit_distance
    missed = missed_share(RIGHT, answer, surprise, BOUNDS.bits)
    assert is_near(Match(False, False, distance=match.distance, missed=missed), BOUNDS) is near


def test_without_a_least_surprise_each_character_is_a_stretch() -> None:
    """A policy may say 0 bits: then any wrong character is a stretch that is all wrong."""
    assert missed_share("abc12", "abc12", [1.0] * 5, 0.0) == 0.0
    assert missed_share("abc12", "abc13", [1.0] * 5, 0.0) == 1.0
    assert missed_share("abc12", "abc13", [1.0, 1.0, 1.0, 1.0, 0.0], 0.0) == 0.0


def test_a_targets_surprise_is_its_tokens_shared_out() -> None:
    """Two bits on four characters, one on the rest; the prefix's part of the first token is left out."""
    logs = (-2 * 0.6931471805599453, -0.6931471805599453)
    assert character_surprise("bcd12", (" bcd", "12"), logs) == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5])
    assert character_surprise("\u20ac1", ("\ufffd", "1"), logs) == pytest.approx([1.5, 1.5])


def test_other_splits_of_the_same_text_are_matched_from_the_end() -> None:
    """Two splits differ near the boundary only; a token without a partner has none."""
    assert align((9, 2, 3), (7, 8, 2, 3)) == (None, 2, 3)
    assert align((1, 2), (1, 2)) == (0, 1)
    assert align((1, 2), (5,)) == (None, None)
