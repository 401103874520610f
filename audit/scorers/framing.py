"""From a prefix and a target to token ids, with a tokenizer of this process."""

from typing import Any, Literal

from jinja2 import TemplateError
from lorecall.audit.scorers.splits import Split, split_tokens

Framing = Literal["raw", "chat"]


def chat_messages(prefix: str, system: str | None) -> list[dict[str, str]]:
    """Return the messages of the framing "chat": the prefix as the user's turn, after `system`, if given."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": prefix}]


def framed_prefix(tokenizer: Any, prefix: str, framing: str, system: str | None) -> tuple[str, bool]:
    """Return the text before the target, and whether the tokenizer is to add its special tokens to it.

    "raw" is the prefix itself. "chat" puts it into the model's chat template, followed by the opening of the
    assistant's turn.

    Raises:
        ValueError: If the model has no chat template, or the template refuses the messages.
    """
    if framing == "raw":
        return prefix, True
    messages = chat_messages(prefix, system)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    return str(text), False


def split_text(tokenizer: Any, prefix: str, target: str, framing: str, system: str | None) -> list[Split]:
    """Return the ways to tokenize a target after its framed prefix: one, or two where the boundary is not exact.

    Args:
        tokenizer: A tokenizer with the methods of transformers' tokenizers.
        prefix: What is given.
        target: What is scored.
        framing: As for `framed_prefix`.
        system: The system message of the framing "chat", if any.

    Raises:
        ValueError: If the prefix cannot be framed.
    """
    before, special = framed_prefix(tokenizer, prefix, framing, system)
    joint = tokenizer.encode(before + target, add_special_tokens=special)
    return split_tokens(
        tokenizer.encode(before, add_special_tokens=special),
        tokenizer.encode(target, add_special_tokens=False),
        joint,
        tokenizer.convert_ids_to_tokens(joint),
        target,
    )
