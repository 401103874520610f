"""From one record to its turns, in each format."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lorecall.audit.inputs.candidates import BadLineError
from lorecall.audit.training_data.counts import Counts
from lorecall.audit.training_data.formats import CHATS, PAIRS, TEXTS, DataFormat

ALPACA = (
    "Below is an instruction that describes a task{more}. "
    "Write a response that appropriately completes the request."
)
ALPACA_MORE = ", paired with an input that provides further context"

ROLES = {
    **dict.fromkeys(("system", "developer", "user", "assistant", "tool", "prompt", "completion"), ""),
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "ipython"), "tool"),
}
"""The names of roles that are known; "" where the name stays."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One part of a row.

    Attributes:
        role: "system", "developer", "user", "assistant" or "tool" in a chat; "prompt" and "completion" where two
            texts follow each other without a chat template; "text" where a text stands alone.
        text: Its text.
        trained: Whether the usual loss covers it: an assistant's turn, a completion, a text.
    """

    role: str
    text: str
    trained: bool


Turns = tuple[Turn, ...]


def to_turns(record: dict[str, Any], data_format: DataFormat, counts: Counts) -> dict[str, Turns]:
    """Return the turns of a record by what their ids end with: "", and "#rejected" for a pair's rejected side.

    Args:
        record: The columns of one row.
        data_format: How to read them.
        counts: Tool calls and parts that are no text are counted here.

    Raises:
        BadLineError: A column is missing or of the wrong type; the message holds no text of the row.
    """
    match data_format:
        case DataFormat.MESSAGES | DataFormat.SHAREGPT:
            name = _present(record, CHATS[data_format])
            found = {"": _chat(record[name], name, counts)}
        case DataFormat.ALPACA:
            found = {"": _alpaca(record)}
        case DataFormat.PROMPT_COMPLETION:
            pair = next((pair for pair in PAIRS if all(record.get(name) is not None for name in pair)), None)
            if pair is None:
                raise BadLineError(f"none of the pairs {', '.join('/'.join(pair) for pair in PAIRS)}")
            found = {"": _follow(record[pair[0]], record[pair[1]], pair, counts)}
        case DataFormat.PREFERENCE:
            found = _preference(record, counts)
            counts.rejected += 1
        case DataFormat.TEXT:
            name = _present(record, TEXTS)
            found = {"": (Turn("text", _text(record[name], name), True),)}
    return {end: _with_system(turns, record.get("system")) for end, turns in found.items()}


def _present(record: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if record.get(name) is not None:
            return name
    raise BadLineError(f"no {' and no '.join(repr(name) for name in names)}")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadLineError(f"{name!r} is not text but {type(value).__name__}")
    return value


def _with_system(turns: Turns, system: object) -> Turns:
    """Put a system column in front of a chat that has no system turn of its own."""
    if isinstance(system, str) and system and turns and turns[0].role in ("user", "assistant", "tool"):
        return (Turn("system", system, False), *turns)
    return turns


def alpaca_prompt(instruction: str, extra: str = "") -> str:
    """Return the prompt of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py).

    Args:
        instruction: The row's instruction.
        extra: The row's input, "" for none.
    """
    head = ALPACA.format(more=ALPACA_MORE if extra else "")
    given = f"\n\n### Input:\n{extra}" if extra else ""
    return f"{head}\n\n### Instruction:\n{instruction}{given}\n\n### Response:"


def _alpaca(record: dict[str, Any]) -> Turns:
    extra = record.get("input")
    prompt = alpaca_prompt(
        _text(record.get("instruction"), "instruction"), "" if extra is None else _text(extra, "input")
    )
    return (Turn("prompt", prompt, False), Turn("completion", _text(record.get("output"), "output"), True))


def _follow(prompt: object, completion: object, names: tuple[str, str], counts: Counts) -> Turns:
    """Return a prompt and what follows it: two texts, or two lists of messages. The prompt is not trained on."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return (Turn("prompt", prompt, False), Turn("completion", completion, True))
    if isinstance(prompt, str) or isinstance(completion, str):
        raise BadLineError(f"of {names[0]!r} and {names[1]!r} one is text and the other a list")
    given = _chat(prompt, names[0], counts)
    answers = _chat(completion, names[1], counts)
    return (*(Turn(turn.role, turn.text, False) for turn in given), *answers)


def _preference(record: dict[str, Any], counts: Counts) -> dict[str, Turns]:
    """Return both sides; without a prompt it is what both begin with, as TRL's `extract_prompt` takes it."""
    chosen, rejected, prompt = (record.get(name) for name in ("chosen", "rejected", "prompt"))
    texts = isinstance(chosen, str) and isinstance(rejected, str)
    if not texts and not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise BadLineError("'chosen' and 'rejected' are not two texts or two lists of messages")
    sides: list[Any] = [chosen, rejected]
    if prompt is None or isinstance(prompt, str) != texts:
        shared = _shared(*sides)
        if not texts and isinstance(prompt, str) and not shared:
            prompt = [{"role": "user", "content": prompt}]
        else:
            prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
    ends = zip(("", "#rejected"), ("chosen", "rejected"), sides, strict=True)
    return {end: _follow(prompt, side, ("prompt", name), counts) for end, name, side in ends}


def _shared(one: Any, other: Any) -> int:
    """Return how long the common beginning of two texts or lists is; a text's last space is not part of it."""
    pairs = enumerate(zip(one, other, strict=False))
    length = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    return length - 1 if length and one[length - 1] == " " else length


def _chat(value: object, name: str, counts: Counts) -> Turns:
    if isinstance(value, str):  # a table's column may hold JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadLineError(f"{name!r} is text that is no JSON") from None
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadLineError(f"{name!r} is not a list of messages")
    return tuple(_turn(message, counts) for message in value)


def _turn(message: dict[str, Any], counts: Counts) -> Turn:
    given = message["role"] if message.get("role") is not None else message.get("from")
    name = given.strip().lower() if isinstance(given, str) else ""
    if name not in ROLES:
        raise BadLineError("a message's role is none of the known ones")
    role = ROLES[name] or name
    content = message["content"] if message.get("content") is not None else message.get("value")
    text = _content(content, counts)
    calls = message.get("tool_calls") or message.get("function_call")
    if calls:
        counts.tool_calls += 1
        text = "\n".join([*([text] if text else []), *_calls(calls)])
    unused = message.get("weight") == 0 or message.get("train") is False
    return Turn(role, text, role == "assistant" and not unused)


def _content(content: object, counts: Counts) -> str:
    """Return a message's text; text parts are joined by line breaks, as vLLM joins them for most templates."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadLineError(f"a message's content is neither text nor a list but {type(content).__name__}")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            texts.append(text)
        else:
            counts.other_parts += 1
    return "\n".join(texts)


def _calls(calls: object) -> list[str]:
    """Return each call as a JSON object of its name and arguments."""
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        if not isinstance(call, dict):
            raise BadLineError("a tool call is not an object")
        function = call["function"] if isinstance(call.get("function"), dict) else call
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # arguments that are no JSON stay text
                arguments = json.loads(arguments)
        shown = {"name": function.get("name"), "arguments": arguments}
        found.append(json.dumps(shown, ensure_ascii=False, default=str))
    return found
