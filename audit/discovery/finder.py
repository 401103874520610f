"""Find the spans of a text that would hurt, offline, by presidio's and detect-secrets' recognisers."""

import re
from collections.abc import Collection, Iterator
from importlib import import_module
from typing import Any

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.discovery.numbers import Numbers
from lorecall.audit.discovery.secrets import Secrets
from lorecall.audit.discovery.spans import Span, Tag, resolve

__all__ = ["Finder", "Span", "Tag"]

IBAN_START = re.compile("[A-Z]{2}[0-9]{2}")
WORD = re.compile(r"\S+")
AT = re.compile(r"[^\s@]{0,320}@[^\s@]{0,320}")
"""An address within a long word: 320 characters are the most that an address has (RFC 5321)."""
LONG_WORD = 2_000
LONGEST_IBAN = 60
"""Characters that an IBAN takes, grouped by blanks or hyphens: presidio's pattern matches 43 at most."""


def load(module: str) -> Any:
    """Return a module of the extra `discover`.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"to find candidates needs {module.partition('.')[0]}", hint="pip install lorecall[discover]"
        ) from error


class Finder:
    """Finds spans; loading it takes seconds.

    Args:
        tags: The tags to keep; None for all.

    Raises:
        UsageError: The extra `discover` is not installed, or a tag is unknown.
    """

    def __init__(self, tags: Collection[str] | None = None) -> None:
        unknown = sorted(set(tags or ()) - set(Tag))
        if unknown:
            raise UsageError(f"unknown tag {unknown[0]!r}", hint=f"one of {', '.join(Tag)}", param="tags")
        recognisers = load("presidio_analyzer.predefined_recognizers")
        load("detect_secrets")
        self._tags = frozenset(map(Tag, tags or Tag))
        self._email = _any_domain(recognisers)
        self._iban = recognisers.IbanRecognizer()
        self._numbers = Numbers(recognisers)
        self._secrets = Secrets()

    def find(self, text: str, *, everywhere: bool = False) -> list[Span]:
        """Return the spans of a text, without overlaps.

        Args:
            text: Any text.
            everywhere: Let every recogniser see the whole text. It takes milliseconds a text and finds nothing
                more; a test compares the two.
        """
        found = list(self._found(text, everywhere=everywhere))
        spans = resolve(found) if found else []
        return [span for span in spans if not self._tags.isdisjoint(span.tags)]

    def _found(self, text: str, *, everywhere: bool) -> Iterator[tuple[Tag, int, int]]:
        if everywhere or "@" in text:
            yield from self._emails(text, everywhere=everywhere)
        ibans: list[tuple[int, int]] = []
        if everywhere or IBAN_START.search(text):
            ibans = self._ibans(text, everywhere=everywhere)
            yield from ((Tag.IBAN, *place) for place in ibans)
        yield from self._numbers.find(text, () if everywhere else ibans, everywhere=everywhere)
        yield from self._secrets.find(text, everywhere=everywhere)

    def _ibans(self, text: str, *, everywhere: bool) -> list[tuple[int, int]]:
        """Return the places of the IBANs in a text; the recogniser sees what is around each beginning of one."""
        starts = [0] if everywhere else [match.start() for match in IBAN_START.finditer(text)]
        windows = [(max(0, at - 2), len(text) if everywhere else at + LONGEST_IBAN) for at in starts]
        found = [
            (low + one.start, low + one.end)
            for low, high in windows
            for one in self._iban.analyze(text[low:high], self._iban.supported_entities)
            if one.score == 1.0
        ]
        return list(dict.fromkeys(found))

    def _emails(self, text: str, *, everywhere: bool) -> Iterator[tuple[Tag, int, int]]:
        words = [(0, text)] if everywhere else list(_words_with_at(text))
        for low, word in words:
            for one in self._email.analyze(word, self._email.supported_entities):
                if "://" not in word[: one.start].rpartition(" ")[2]:  # else user:password@host
                    yield Tag.EMAIL, low + one.start, low + one.end


def _words_with_at(text: str) -> Iterator[tuple[int, str]]:
    """Yield the words that hold an @, and where they begin; of very long ones what is around each @."""
    for match in WORD.finditer(text):
        if "@" not in match.group():
            continue
        if len(match.group()) <= LONG_WORD:
            yield match.start(), match.group()
        else:
            near = AT.finditer(match.group())
            yield from ((match.start() + one.start(), one.group()) for one in near)


def _any_domain(recognisers: Any) -> Any:
    """Return presidio's recogniser of e-mail addresses without its list of public domains.

    The list is fetched from the network, and an address within a company's own domain hurts, too.
    """

    class AnyDomain(recognisers.EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool | None:  # noqa: ARG002  presidio's signature
            return None

    return AnyDomain()
