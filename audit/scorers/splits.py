"""Where a text's prefix ends and its target begins, in tokens; both answers where there are two."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lorecall.audit.scorer import ItemScore

Ids = tuple[int, ...]

PRINTED_BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_OF_CHARACTER = {chr(byte): byte for byte in PRINTED_BYTES} | {
    chr(0x100 + n): byte for n, byte in enumerate(b for b in range(0x100) if b not in PRINTED_BYTES)
}
"""How byte-level vocabularies (GPT-2's and its heirs') write each byte as one printable character."""
BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class Split:
    """One way to cut a text into what is given and what is scored.

    Attributes:
        prefix_ids: Token ids that are given, special and template tokens included.
        target_ids: Token ids that are scored.
        exact: Whether it is the only way.
    """

    prefix_ids: Ids
    target_ids: Ids
    exact: bool = True


def split_tokens(
    prefix_ids: Sequence[int],
    target_ids: Sequence[int],
    joint_ids: Sequence[int],
    joint_tokens: Sequence[str],
    target: str,
) -> list[Split]:
    """Return the ways to cut the tokens of a text where its prefix ends.

    One, if tok(prefix) + tok(target) equals tok(prefix + target). Two otherwise: the halves joined, and the joint
    tokenization, whose target starts at the first token that holds anything of the target's text. That token
    may begin inside the prefix. Where the vocabulary does not spell the target as it was given (a normaliser
    changed it), the joint tokenization is cut where it leaves the prefix's own tokens, which may be earlier.

    Args:
        prefix_ids: Tokens of what is given, alone.
        target_ids: Tokens of the target, alone.
        joint_ids: Tokens of both, tokenized as one text.
        joint_tokens: How the tokenizer's vocabulary writes each of the joint tokens.
        target: The target's text.
    """
    prefix, scored, joint = tuple(prefix_ids), tuple(target_ids), tuple(joint_ids)
    if prefix + scored == joint:
        return [Split(prefix, scored)]
    cut = target_start(joint_tokens, target)
    if cut is None:
        pairs = zip(prefix, joint, strict=False)
        cut = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(prefix), len(joint)))
    halves = Split(prefix, scored, exact=False)
    return [halves, Split(joint[:cut], joint[cut:], exact=False)] if joint[cut:] else [halves]


def target_start(tokens: Sequence[str], target: str) -> int | None:
    """Return the index of the first token that holds anything of the target, the end of the tokens' text.

    Args:
        tokens: How the vocabulary writes each token: a byte-level one, or one of SentencePiece.
        target: The end of their text.

    Returns:
        None if the tokens do not end with the target, neither as it is nor in Unicode form NFC.
    """
    for wanted in dict.fromkeys(form.encode() for form in (target, unicodedata.normalize("NFC", target))):
        for read in (_byte_level, _sentencepiece):
            start = _start_of_end(tokens, wanted, read)
            if start is not None:
                return start
    return None


def _start_of_end(tokens: Sequence[str], wanted: bytes, read: Callable[[str], bytes]) -> int | None:
    end = b""
    for index in range(len(tokens) - 1, -1, -1):
        end = read(tokens[index]) + end
        if len(end) >= len(wanted):
            return index if end.endswith(wanted) else None
    return None


def _byte_level(token: str) -> bytes:
    if all(character in BYTE_OF_CHARACTER for character in token):
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    return token.encode()  # a token that was added to the vocabulary as text


def _sentencepiece(token: str) -> bytes:
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def worst_first(scores: Sequence[ItemScore]) -> ItemScore:
    """Return the scores of the split in which the text is recalled the most, with the other's in `other`."""
    usable = [score for score in scores if not score.error] or [scores[0]]
    worst, *others = sorted(usable, key=lambda score: -min(score.p, default=0.0))
    return replace(worst, other=others[0]) if others else worst
