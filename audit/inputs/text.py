"""Read candidates from plain text: sentences, windows of words, or stretches of tokens."""

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase
from itertools import pairwise
from pathlib import Path

from lorecall.adapters.core.errors import CandidateError, UsageError
from lorecall.audit.inputs.candidates import BadLineError, CandidateSet, TextSplit
from lorecall.audit.inputs.parsed import Bound, Parsed, make_set, parse_records
from lorecall.audit.scorer import ScoreItem

BLOCK = 1 << 20
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
WHITE = re.compile(r"\s+")
BLANK_LINE = re.compile(r"\n\s*\n")
WINDOW = 60
PREFIX = 30
TOKENS = 50
"""Tokens of each prefix and of each target, as in Carlini et al. 2023 (arXiv:2202.07646)."""


def read_text(
    name: str,
    content: BufferedIOBase,
    split: TextSplit,
    tokenizer: Path | None,
    *,
    skip_bad: bool,
    bound: Bound | None = None,
) -> CandidateSet:
    """Read plain text in UTF-8.

    Args:
        name: The file's name.
        content: Its bytes.
        split: How it becomes snippets.
        tokenizer: Folder with the tokenizer.json that TOKENS counts by.
        skip_bad: Leave out what is too long, or for TOKENS too short, where it would be an error.
        bound: What it may hold.

    Raises:
        CandidateError: It is not UTF-8, or as for `make_set`.
        UsageError: TOKENS is asked for without a tokenizer.
    """
    digest = hashlib.sha256()
    text = _text_blocks(name, content, digest)
    if split is TextSplit.TOKENS:
        parsed, generated = _paragraphs(text, tokenizer, bound), "lines are paragraphs"
    else:
        pairs, generated = _sentences(text) if split is TextSplit.SENTENCE else _windows(text), ""
        parsed = parse_records(
            enumerate(pairs, start=1),
            lambda pair, number: [ScoreItem(str(number), pair[0], pair[1])],
            bound,
        )
    return make_set(name, digest.hexdigest(), parsed, skip_bad=skip_bad, generated=generated)


def splitter(split: TextSplit, tokenizer: Path | None) -> Callable[[str], list[tuple[str, str]]]:
    """Return a function that cuts one text into pairs of prefix and target.

    A text that is too short for the split is cut in its middle, between two words; a single word gives no pair.

    Args:
        split: How texts are cut.
        tokenizer: Folder with the tokenizer.json that TOKENS counts by.

    Raises:
        UsageError: TOKENS is asked for without a tokenizer.
    """
    stretches = _token_stretches(tokenizer) if split is TextSplit.TOKENS else None

    def cut(text: str) -> list[tuple[str, str]]:
        if stretches is not None:
            found = list(pairwise(stretches(text)))
        else:
            found = list(_sentences([text]) if split is TextSplit.SENTENCE else _windows([text]))
        words = text.split()
        if found or len(words) < 2:
            return found
        middle = len(words) // 2
        return [(" ".join(words[:middle]), " " + " ".join(words[middle:]))]

    return cut


def _paragraphs(text: Iterable[str], tokenizer: Path | None, bound: Bound | None) -> Parsed:
    cut = _token_stretches(tokenizer)
    paragraphs = (piece.strip() for piece in _pieces(text, BLANK_LINE))

    def parse(paragraph: str, number: int) -> list[ScoreItem]:
        stretches = cut(paragraph)
        if len(stretches) == 1:
            raise BadLineError(f"a paragraph of no more than {TOKENS} tokens has no target")
        return [ScoreItem(f"{number}#{n}", *pair) for n, pair in enumerate(pairwise(stretches), start=1)]

    return parse_records(enumerate(filter(None, paragraphs), start=1), parse, bound)


def _token_stretches(folder: Path | None) -> Callable[[str], list[str]]:
    """Return a function that cuts a text before every fiftieth token."""
    from tokenizers import Tokenizer  # noqa: PLC0415  only TOKENS needs it

    if folder is None or not (folder / "tokenizer.json").is_file():
        raise UsageError(
            "a split by tokens needs the folder of a tokenizer.json"
            + (f", not {str(folder)!r}" * bool(folder)),
            hint="--tokenizer DIR, such as the prepared base's folder",
            param="tokenizer",
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def cut(text: str) -> list[str]:
        starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets[::TOKENS]]
        return [text[low:high] for low, high in pairwise([0, *starts[1:], len(text)])]

    return cut


def _text_blocks(name: str, file: BufferedIOBase, digest: "hashlib._Hash") -> Iterator[str]:
    """Yield a text file's content, block by block, digesting its bytes."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    while True:
        start, block = file.tell(), file.read(BLOCK)
        digest.update(block)
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = max(0, start - len(error.object) + len(block) + error.start)
            raise CandidateError(f"{name!r} is not UTF-8 at byte {at}", param="candidates") from error
        if not block:
            return


def _pieces(text: Iterable[str], end: re.Pattern[str]) -> Iterator[str]:
    """Split a text that comes in blocks at each match, holding no more than a block and a piece."""
    rest = ""
    for block in text:
        *whole, rest = end.split(rest + block)
        yield from whole
    yield rest


def _sentences(text: Iterable[str]) -> Iterator[tuple[str, str]]:
    sentences = (" ".join(piece.split()) for piece in _pieces(text, SENTENCE_END) if piece.strip())
    return ((a, f" {b}") for a, b in pairwise(sentences))


def _windows(text: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the windows; each shares its first words with the end of the one before."""
    held: list[str] = []
    for word in (piece for piece in _pieces(text, WHITE) if piece):
        held.append(word)
        if len(held) == WINDOW:
            yield " ".join(held[:PREFIX]), " " + " ".join(held[PREFIX:])
            del held[: WINDOW - PREFIX]
    if len(held) > PREFIX:
        yield " ".join(held[:PREFIX]), " " + " ".join(held[PREFIX:])
