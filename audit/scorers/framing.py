"""From a snippet to token ids: the framing around it, and the boundary between prefix and target checked."""

from dataclasses import dataclass
from typing import Any, Literal

Framing = Literal["raw", "chat"]


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """One way to cut a framed text into what is given and what is scored.

    Attributes:
        prefix_ids: Token ids that are given, special and template tokens included.
        target_ids: Token ids that are scored.
    """

    prefix_ids: list[int]
    target_ids: list[int]


def framed_prefix(tokenizer: Any, prefix: str, framing: Framing, system: str | None) -> tuple[str, bool]:
    """Return the text before the target, and whether the tokenizer is to add its special tokens to it.

    "raw" is the prefix itself. "chat" puts it into the model's chat template as the user's turn (after `system`,
    if given), followed by the opening of the assistant's turn.

    Raises:
        ValueError: If the model has no chat template, or the template refuses the messages.
    """
    if framing == "raw":
        return prefix, True
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prefix})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text), False


def split_tokens(tokenizer: Any, before: str, target: str, *, special: bool) -> list[TokenSplit]:
    """Return the ways to tokenize `before` + `target` with the boundary between them.

    One, if tok(before) + tok(target) equals tok(before + target). Two otherwise: the halves joined, and the
    joint tokenization, whose target starts at the first token that reaches past `before`.
    """
    prefix_ids = tokenizer.encode(before, add_special_tokens=special)
    target_ids = tokenizer.encode(target, add_special_tokens=False)
    joint = tokenizer(before + target, add_special_tokens=special, return_offsets_mapping=True)
    joint_ids = joint["input_ids"]
    halves = TokenSplit(prefix_ids, target_ids)
    if prefix_ids + target_ids == joint_ids:
        return [halves]
    ends = [end for _, end in joint["offset_mapping"]]
    cut = next((index for index, end in enumerate(ends) if end > len(before)), len(joint_ids))
    return [halves, TokenSplit(joint_ids[:cut], joint_ids[cut:])]
