"""Fold away what is only the written form of a text, so that one secret written in two ways compares equal.

Folded: case, Unicode form and width (NFKD), kinds of white space, dash and quote, invisible characters, the
separators that group digits (blank, dash, dot, comma, apostrophe, slash, parentheses), white space beside
punctuation and dashes, and punctuation at the ends. Everything else must be equal.
"""

import re
import unicodedata
from dataclasses import dataclass

QUOTES = frozenset("'\"`´‘’‚‛“”„‟‹›«»＇＂")  # noqa: RUF001
DASHES = frozenset("−⁃－")  # noqa: RUF001  those that Unicode does not class as dashes
GROUPING = re.compile(r"(?<=\d)[ .,'\-/()]+(?=\d)|(?<!\w)[(+]+(?=\d)")
BLANKS = re.compile(r" +(?=[ \-.,;:!?'])|(?<=-) +")
ENDS = " .,;:!?'"


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text.

    Attributes:
        text: The text without its written form.
        at: For each of its characters, the index in the original text.
    """

    text: str
    at: tuple[int, ...]

    def find(self, goal: "Folded") -> int | None:
        """Return where `goal` stands in this text, not as a part of a longer word or number; None if nowhere."""
        if not goal.text:
            return None
        start = self.text.find(goal.text)
        while start >= 0:
            if not self._joined(start - 1) and not self._joined(start + len(goal.text) - 1):
                return start
            start = self.text.find(goal.text, start + 1)
        return None

    def _joined(self, left: int) -> bool:
        """Return whether two neighbours are of one word or number in the original text."""
        if not 0 <= left < len(self.text) - 1:
            return False
        pair = self.text[left : left + 2]
        return pair.isalnum() and self.at[left + 1] - self.at[left] <= 1


def fold(text: str) -> Folded:
    """Return the text without its written form."""
    found = [(form, i) for i, symbol in enumerate(text) for form in forms(symbol)]
    for pattern in (BLANKS, GROUPING):
        written = "".join(form for form, _ in found)
        gone = {i for match in pattern.finditer(written) for i in range(*match.span())}
        found = [entry for i, entry in enumerate(found) if i not in gone]
    written = "".join(form for form, _ in found)
    start = len(written) - len(written.lstrip(ENDS))
    found = found[start : len(written.rstrip(ENDS))]
    return Folded("".join(form for form, _ in found), tuple(i for _, i in found))


def forms(symbol: str) -> str:
    """Return the folded characters of one character: none, one, or several of a ligature."""
    if symbol.isspace():
        return " "
    if symbol in QUOTES:
        return "'"
    if unicodedata.category(symbol) == "Pd" or symbol in DASHES:
        return "-"
    if unicodedata.category(symbol) in {"Cf", "Cc"}:
        return ""
    plain = unicodedata.normalize("NFKD", symbol)
    return unicodedata.normalize("NFKD", plain.casefold()) if plain != symbol else symbol.casefold()


def folded(text: str) -> str:
    """Return the text without its written form, as a string."""
    return fold(text).text
