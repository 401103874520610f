"""What becomes of the tokenizer's files beside an adapter: its chat template is used, or its owner is told."""

from collections.abc import Collection
from dataclasses import dataclass

from lorecall.adapters.peft_format.companions import (
    Companions,
    check_template,
    own_template,
    template_digest,
)
from lorecall.adapters.peft_format.files import TOKENIZER_FILES

RENDERED = "its chats are rendered with its own chat template, "
"""Begins the remark that names a template in use."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was decided on the files beside an adapter.

    Attributes:
        chat_template: The template that its chats are rendered with; "" for the base's.
        remarks: What the adapter's owner should know of the files beside it.
    """

    chat_template: str
    remarks: tuple[str, ...]


def check_companions(beside: Companions, names: Collection[str], base: Companions, refused: str) -> Judged:
    """Decide on the tokenizer's files beside an adapter.

    Args:
        beside: What could be read of them.
        names: The names of all files beside the adapter.
        base: The base's own.
        refused: Why a template of its own is not used here; "" if it is.

    Raises:
        RefusedError: The template would be used, and is none or too large.
    """
    remarks, text = [], own_template(beside, base)
    if text and refused:
        remarks.append(f"not used: its chat template ({beside.template_file}); {refused}")
        text = ""
    elif text:
        check_template(text, beside.template_file)
        remarks.append(f"{RENDERED}{template_digest(text)[:16]}")
    if beside.added_tokens and base.added_tokens is not None:
        count = len(beside.added_tokens - base.added_tokens)
        if count:
            tokens = "1 token was" if count == 1 else f"{count} tokens were"
            remarks.append(f"{tokens} added to its tokenizer; the base's is used, which does not have them")
    used = {beside.template_file} if beside.chat_template else set()
    others = [
        name
        for name in TOKENIZER_FILES
        if name in names
        and name not in used
        and (name not in beside.digests or beside.digests[name] != base.digests.get(name))
    ]
    if others:
        remarks.append(f"not used: {', '.join(others)}; requests are read with the base's tokenizer")
    return Judged(text, tuple(remarks))
