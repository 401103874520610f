"""What is given before a span is what its training row has there."""

from lorecall.audit.discovery.context import Given, choose_turns, given
from lorecall.audit.training_data.rows import Row, Turn

CHAT = Row(
    7,
    "7",
    (
        Turn("system", "Be kind.", False),
        Turn("user", "My card?", False),
        Turn("assistant", "It is 4000.", True),
        Turn("user", "And my code 12?", False),
        Turn("assistant", "It is 34.", True),
    ),
)


def test_an_answer_is_given_its_history_as_messages() -> None:
    """The turns before in their order, and the beginning of its own turn."""
    assert given(CHAT, 2, 5) == Given((("system", "Be kind."), ("user", "My card?")), "It is")
    assert [role for role, _ in given(CHAT, 4, 5).messages] == ["system", "user", "assistant", "user"]


def test_a_users_turn_is_given_all_texts_before() -> None:
    """No template opens a user's turn, so that the texts before it are one prefix."""
    assert given(CHAT, 3, 11) == Given((), "Be kind.\nMy card?\nIt is 4000.\nAnd my code")


def test_a_completion_follows_its_prompt() -> None:
    """Without anything between, as it was trained."""
    row = Row(1, "1", (Turn("prompt", "Q: code?\nA:", False), Turn("completion", " it is 12", True)))
    assert given(row, 1, 6) == Given((), "Q: code?\nA: it is")


def test_a_long_history_loses_its_oldest_turns_but_not_the_systems() -> None:
    """It begins with a user's turn, as templates want it, and says that it was cut."""
    assert given(CHAT, 4, 5, longest=30) == Given(
        (("system", "Be kind."), ("user", "And my code 12?")), "It is", cut=True
    )
    text = Row(1, "1", (Turn("text", "abcdefgh 12", True),))
    assert given(text, 0, 8, longest=3) == Given((), "fgh", cut=True)


def test_turns_are_those_trained_on_unless_roles_are_named() -> None:
    """Inputs leak, too: the user's turns on request."""
    assert choose_turns(CHAT, ()) == [2, 4]
    assert choose_turns(CHAT, ("user", "system")) == [0, 1, 3]
