"""Map the fields of one record to its candidates: a pair of fields under any of the usual names, or a chat."""

from itertools import pairwise

from lorecall.audit.inputs.candidates import BadLineError, Turns
from lorecall.audit.scorer import ScoreItem

FIELD_PAIRS = (("prefix", "target"), ("query", "target"), ("prompt", "completion"))
FIELDS = frozenset({"id", "messages", "tag", "tags", *(name for pair in FIELD_PAIRS for name in pair)})
"""Every field of a record that is looked at: no other column of a table is read, and no message names another."""


def describe_turns(turns: Turns) -> str:
    """Return how a report describes which turns of the chats were taken; "" for ONLY."""
    return (
        "" if turns is Turns.ONLY else f"chats: {turns} assistant turns, each after the user's turn before it"
    )


def to_items(fields: dict[str, object], default_id: str, turns: Turns = Turns.ONLY) -> list[ScoreItem]:
    """Map the fields of one record to its candidates: one, or one for each turn of a chat that is asked for.

    Args:
        fields: The record.
        default_id: Its id where it has none.
        turns: Which turns of a chat are asked for; with ALL, the turn's number is added to the id.

    Raises:
        BadLineError: A field is missing, empty or of the wrong type.
    """
    identity = fields.get("id", default_id)
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise BadLineError("'id' is neither text nor a whole number")
    pair = next((pair for pair in FIELD_PAIRS if pair[0] in fields and pair[1] in fields), None)
    if pair is not None:
        prefix, target = (_text(fields, name) for name in pair)
        return [_item(str(identity), prefix, target, pair[1])]
    if "messages" not in fields:
        names = ", ".join(f"{a}/{b}" for a, b in FIELD_PAIRS)
        raise BadLineError(f"none of the field pairs {names}, and no messages")
    chosen = _turns(fields["messages"], turns)
    return [
        _item(f"{identity}#{number}" if turns is Turns.ALL else str(identity), user, assistant, "content")
        for number, (user, assistant) in enumerate(chosen, start=1)
    ]


def _item(identity: str, prefix: str, target: str, name: str) -> ScoreItem:
    if not target.strip():
        raise BadLineError(f"{name!r} is empty")
    return ScoreItem(id=identity, prefix=prefix, target=target)


def _turns(messages: object, turns: Turns) -> list[tuple[str, str]]:
    """Return the user's and the assistant's texts of the turns that are asked for.

    A longer chat cannot be framed by a prefix and a system message, and is cut only if the caller asks for it.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadLineError("'messages' is not a list of objects")
    roles = [message.get("role") for message in messages]
    if turns is Turns.ONLY and roles == ["system", "user", "assistant"]:
        raise BadLineError("a system message belongs into --system, with --framing chat+system")
    if turns is Turns.ONLY and roles != ["user", "assistant"]:
        raise BadLineError(
            "'messages' is not one turn of user and assistant; --turns takes longer chats apart"
        )
    pairs = [
        (_text(before, "content"), _text(message, "content"))
        for before, message in pairwise(messages)
        if (before.get("role"), message.get("role")) == ("user", "assistant")
    ]
    if not pairs:
        raise BadLineError("'messages' has no assistant's turn after a user's")
    return pairs[-1:] if turns is Turns.LAST else pairs


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadLineError(f"{name!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(f"{name!r} holds a lone surrogate at character {error.start}") from error
    return value
