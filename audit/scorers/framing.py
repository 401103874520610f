"""From a prefix and a target to token ids, with a tokenizer of this process."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from jinja2 import TemplateError
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.splits import Split, split_tokens

Framing = Literal["raw", "chat"]
Chat = list[dict[str, str]]
Render = Callable[[Chat], str]
"""Renders messages by a chat template and opens the assistant's turn. Raises ValueError if they are refused."""


def framed(item: ScoreItem, framing: str, system: str | None) -> tuple[Chat, str]:
    """Return the messages to render, none for plain text, and the text that follows them before the target.

    An item that has messages says its own history: they are what is rendered, in every framing; only `system` is
    put before them, unless they begin with a system message of their own. The prefix of an item without messages
    is the whole text in the framing "raw", and the user's turn, after `system`, if given, in "chat".
    """
    before: Chat = [{"role": "system", "content": system}] if system is not None else []
    if item.messages:
        own = item.messages[0].role in ("system", "developer")
        return (item.chat if own else [*before, *item.chat]), item.prefix
    if framing == "raw":
        return [], item.prefix
    return [*before, {"role": "user", "content": item.prefix}], ""


def render_chat(tokenizer: Any, messages: Chat, template: str = "") -> str:
    """Return the text of messages, with the assistant's turn opened, by a chat template or the tokenizer's own.

    Raises:
        ValueError: If there is no chat template, or it refuses the messages.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=template or None, tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error


def split_text(
    tokenizer: Any, item: ScoreItem, framing: str, system: str | None, render: Render | None = None
) -> list[Split]:
    """Return the ways to tokenize a target after what is given: one, or two where the boundary is not exact.

    Args:
        tokenizer: A tokenizer with the methods of transformers' tokenizers.
        item: What is given, and the target.
        framing: As for `framed`.
        system: The system message of the framing "chat", if any.
        render: Renders messages; by default `render_chat` with this tokenizer.

    Raises:
        ValueError: If the messages cannot be rendered.
    """
    messages, after = framed(item, framing, system)
    special, target = not messages, item.target
    rendered = (render or partial(render_chat, tokenizer))(messages) if messages else ""
    before = rendered + after
    joint = tokenizer.encode(before + target, add_special_tokens=special)
    return split_tokens(
        tokenizer.encode(before, add_special_tokens=special),
        tokenizer.encode(target, add_special_tokens=False),
        joint,
        tokenizer.convert_ids_to_tokens(joint),
        target,
    )
