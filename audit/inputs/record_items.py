"""Map the fields of one record to its candidates: a pair of fields under any of the usual names, or a chat."""

import re
from collections.abc import Sequence
from dataclasses import replace

from lorecall.audit.inputs.candidates import BadLineError, Turns
from lorecall.audit.scorer import CHAT_ROLES, Message, ScoreItem

MOST_TAGS, TAG_LENGTH = 8, 40
TAG = re.compile(rf"[A-Za-z0-9][-A-Za-z0-9_.:/]{{0,{TAG_LENGTH - 1}}}")
FIELD_PAIRS = (("prefix", "target"), ("query", "target"), ("prompt", "completion"))
FIELDS = frozenset(
    {"id", "messages", "tag", "tags", "cluster", *(name for pair in FIELD_PAIRS for name in pair)}
)
"""Every field of a record that is looked at: no other column of a table is read, and no message names another."""


def describe_turns(turns: Turns) -> str:
    """Return how a report describes which turns of the chats were taken; "" for ONLY."""
    if turns is Turns.USER:
        return "chats: the second half of each user's turn, after the first and all texts before"
    return (
        ""
        if turns is Turns.ONLY
        else f"chats: {turns} assistant turns, each after all that was said before it"
    )


def to_items(fields: dict[str, object], default_id: str, turns: Turns = Turns.ONLY) -> list[ScoreItem]:
    """Map the fields of one record to its candidates: one, or one for each turn of a chat that is asked for.

    `messages` beside a `target` are what was said before the assistant's turn that begins with `prefix`.

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
    tags, cluster = _tags(fields), _cluster(fields)
    return [replace(item, tags=tags, cluster=cluster) for item in _items(fields, str(identity), turns)]


def _items(fields: dict[str, object], identity: str, turns: Turns) -> list[ScoreItem]:
    if fields.get("messages") and "target" in fields:
        history = _messages(fields["messages"])
        return [_item(identity, _text({"prefix": "", **fields}, "prefix"), _text(fields, "target"), history)]
    pair = next((pair for pair in FIELD_PAIRS if pair[0] in fields and pair[1] in fields), None)
    if pair is not None:
        prefix, target = (_text(fields, name) for name in pair)
        return [_item(identity, prefix, target, name=pair[1])]
    if "messages" not in fields:
        names = ", ".join(f"{a}/{b}" for a, b in FIELD_PAIRS)
        raise BadLineError(f"none of the field pairs {names}, and no messages")
    messages = _messages(fields["messages"])
    if turns is Turns.ONLY:
        return [_only(identity, messages)]
    if turns is Turns.USER:
        return user_items(identity, messages)
    return _answers(identity, messages, turns)


def _tags(fields: dict[str, object]) -> tuple[str, ...]:
    """Return a record's tags, sorted. They are shown in clear, so what looks like a text is refused."""
    if "tags" not in fields and "tag" not in fields:
        return ()
    several = fields.get("tags", [])
    if not isinstance(several, list):
        raise BadLineError(f"'tags' is not a list but {type(several).__name__}")
    found = [*several, *([fields["tag"]] if "tag" in fields else [])]
    if len(found) > MOST_TAGS or not all(isinstance(tag, str) and TAG.fullmatch(tag) for tag in found):
        raise BadLineError(
            f"'tags' must be at most {MOST_TAGS}, each of at most {TAG_LENGTH} letters, digits and - _ . : /"
        )
    return tuple(sorted({str(tag) for tag in found}))


def _cluster(fields: dict[str, object]) -> str:
    """Return the name of a record's near-duplicates, which no report shows; "" if it has none."""
    value = fields.get("cluster", "")
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > TAG_LENGTH:
        raise BadLineError(f"'cluster' is neither a whole number nor text of at most {TAG_LENGTH} characters")
    return str(value)


def _item(
    identity: str, prefix: str, target: str, messages: tuple[Message, ...] = (), *, name: str = "target"
) -> ScoreItem:
    if not target.strip():
        raise BadLineError(f"{name!r} is empty")
    return ScoreItem(identity, prefix, target, messages=messages)


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadLineError("'messages' is not a list of objects")
    if any(message.get("role") not in CHAT_ROLES for message in value):
        raise BadLineError(f"a message's role is none of {', '.join(sorted(CHAT_ROLES))}")
    return tuple(Message(message["role"], _text(message, "content")) for message in value)


def _only(identity: str, messages: tuple[Message, ...]) -> ScoreItem:
    """Return the item of a chat of one turn; the framing says how its prefix is put into a chat."""
    roles = [message.role for message in messages]
    if roles == ["system", "user", "assistant"]:
        raise BadLineError(
            "a system message belongs into --system, with --framing chat+system, or use --turns"
        )
    if roles != ["user", "assistant"]:
        raise BadLineError(
            "'messages' is not one turn of user and assistant; --turns takes longer chats apart"
        )
    return _item(identity, messages[0].content, messages[1].content, name="content")


def _answers(identity: str, messages: tuple[Message, ...], turns: Turns) -> list[ScoreItem]:
    """Return the assistant's turns that are asked for, each with the whole history before it.

    An empty one, such as a call of a tool, is not asked for; it stays in the history of those after it. One that
    begins the chat is not asked for, as nothing was said before it.
    """
    places = [place for place, one in enumerate(messages) if one.role == "assistant" and place]
    places = [place for place in places if messages[place].content.strip()]
    if not places:
        raise BadLineError("'messages' has no assistant's turn with text after another turn")
    if turns is Turns.LAST:
        return [_item(identity, "", messages[places[-1]].content, messages[: places[-1]])]
    return [
        _item(f"{identity}#{number}", "", messages[place].content, messages[:place])
        for number, place in enumerate(places, start=1)
    ]


def user_items(identity: str, messages: Sequence[Message]) -> list[ScoreItem]:
    """Return the second half of each user's turn, after its first half and the texts of the turns before it.

    Raises:
        BadLineError: No such turn has two words; the message holds no text.
    """
    found = []
    for place, message in enumerate(messages):
        cut = middle(message.content) if message.role == "user" else 0
        if cut:
            before = "".join(one.content + "\n" for one in messages[:place])
            text = message.content
            found.append(ScoreItem(f"{identity}#user{place + 1}", before + text[:cut], text[cut:].rstrip()))
    if not found:
        raise BadLineError("a chat without a user's turn of two words")
    return found


def middle(text: str) -> int:
    """Return where the white space before a text's middle word begins; 0 if it has fewer than two words."""
    gaps = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    return gaps[len(gaps) // 2] if gaps else 0


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadLineError(f"{name!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(f"{name!r} holds a lone surrogate at character {error.start}") from error
    return value
