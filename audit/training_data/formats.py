"""The formats of training rows: recognised by the names of their columns, or stated."""

from collections.abc import Collection
from enum import StrEnum

from lorecall.adapters.core.errors import CandidateError

SHOWN_COLUMNS = 10


class DataFormat(StrEnum):
    """What one row of training data looks like.

    MESSAGES is a list of `role` and `content` (OpenAI, TRL); SHAREGPT a list of `from` and `value`. ALPACA has
    `instruction`, `input` and `output`. PROMPT_COMPLETION is a pair, each a text or a list of messages.
    PREFERENCE has `chosen` and `rejected`, texts or lists of messages, with or without a `prompt`. TEXT is one
    text: a column, or a line of a text file.
    """

    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt-completion"
    PREFERENCE = "preference"
    TEXT = "text"


PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("prefix", "target"))
CHATS = {DataFormat.MESSAGES: ("messages",), DataFormat.SHAREGPT: ("conversations", "conversation")}
TEXTS = ("text", "content")
BESIDE = ("id", "system")
"""Columns that are read in every format where they are there."""

COLUMNS: dict[DataFormat, tuple[str, ...]] = {
    **CHATS,
    DataFormat.ALPACA: ("instruction", "input", "output"),
    DataFormat.PROMPT_COMPLETION: tuple(dict.fromkeys(name for pair in PAIRS for name in pair)),
    DataFormat.PREFERENCE: ("prompt", "chosen", "rejected"),
    DataFormat.TEXT: TEXTS,
}
"""The columns that each format reads."""


def recognise(columns: Collection[str]) -> DataFormat | None:
    """Return the format of rows with these columns; None if it is none of ours."""
    names = set(columns)
    required = [
        (DataFormat.PREFERENCE, [{"chosen", "rejected"}]),
        *((chat, [{name} for name in CHATS[chat]]) for chat in CHATS),
        (DataFormat.ALPACA, [{"instruction", "output"}]),
        (DataFormat.PROMPT_COMPLETION, [set(pair) for pair in PAIRS]),
        (DataFormat.TEXT, [{name} for name in TEXTS]),
    ]
    return next((found for found, sets in required if any(one <= names for one in sets)), None)


def wanted_columns(data_format: DataFormat, columns: Collection[str], name: str) -> list[str]:
    """Return the columns of a file that its format reads.

    Args:
        data_format: The format.
        columns: What the file has.
        name: The file's name, for messages.

    Raises:
        CandidateError: The file has not the columns of the format.
    """
    usable = recognise([column for column in columns if column in COLUMNS[data_format]])
    if usable is not data_format:
        raise unknown_columns(columns, name, f"no {data_format} data")
    return [column for column in columns if column in COLUMNS[data_format] or column in BESIDE]


def unknown_columns(columns: Collection[str], name: str, what: str) -> CandidateError:
    """Return the error for a file whose columns are not those of a format."""
    shown = ", ".join(repr(column[:40]) for column in sorted(columns)[:SHOWN_COLUMNS])
    more = len(columns) - SHOWN_COLUMNS
    known = "messages, conversations, instruction/output, prompt/completion, chosen/rejected, text"
    return CandidateError(
        f"{name!r} is {what}: its columns are {shown or 'none'}" + (f" and {more} more" if more > 0 else ""),
        hint=f"rename them, or state another --data-format; known are {known}",
        param="data",
    )
