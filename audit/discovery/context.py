"""What stands before a span in its training row: the messages, and the beginning of its own turn."""

from collections.abc import Collection
from dataclasses import dataclass

from lorecall.audit.scorer import CHAT_ROLES
from lorecall.audit.training_data.rows import Row

KEPT = frozenset(("system", "developer"))
LONGEST_GIVEN = 8_000
"""Characters given before a span, about what two thousand tokens hold."""


@dataclass(frozen=True, slots=True)
class Given:
    """What an audit gives the model before a target.

    Attributes:
        messages: (role, content) of the turns before, for the served chat template.
        prefix: The text right before the target.
        cut: Whether older text was left out.
    """

    messages: tuple[tuple[str, str], ...]
    prefix: str
    cut: bool = False


def choose_turns(row: Row, roles: Collection[str]) -> list[int]:
    """Return the places of the turns to search: those of the roles, or those trained on if no role is named."""
    return [place for place, turn in enumerate(row.turns) if (turn.role in roles if roles else turn.trained)]


def given(row: Row, turn: int, end: int, longest: int = LONGEST_GIVEN) -> Given:
    """Return what the row gives before the character `end` of one of its turns.

    An assistant's turn keeps the turns before it as messages. Any other has no template that opens it, so that
    the texts before it, one a line, are part of the prefix. Of a text over `longest` characters the last are
    kept; of messages the system's and the latest, as many as fit.

    Args:
        row: The row.
        turn: The place of the turn.
        end: Where the target begins in it.
        longest: Characters that are kept.
    """
    own, before = row.turns[turn], row.turns[:turn]
    prefix = own.text[:end]
    if own.role != "assistant" or not before:
        apart = "" if own.role == "completion" else "\n"
        text = "".join(one.text + apart for one in before) + prefix
        return Given((), text[-longest:], cut=len(text) > longest)
    kept: list[tuple[str, str]] = []
    left = longest - len(prefix)
    for one in reversed(before):
        left -= len(one.text)
        role = one.role if one.role in CHAT_ROLES else "user"
        if left >= 0 or not kept or role in KEPT:
            kept.append((role, one.text))
    cut = len(kept) < len(before)
    if cut:  # templates refuse a chat that an answer begins
        rest = [one for one in kept if one[0] not in KEPT]
        while len(rest) > 1 and rest[-1][0] in ("assistant", "tool"):
            kept.remove(rest.pop())
    return Given(tuple(reversed(kept)), prefix[-longest:], cut=cut or len(prefix) > longest)
