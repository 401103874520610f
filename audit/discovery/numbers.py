"""Numbers of people: cards, national ids, telephones, and numbers that stand after a name.

Presidio's recognisers decide, but they take milliseconds a text. A number that they can match has five or more
digits with at most four other characters between two of them, so they see only such runs and what is around them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from lorecall.audit.discovery.spans import Tag

Found = tuple[Tag, int, int]

RUN = re.compile(r"\d(?:\D{0,4}\d){4,}")
"""Where a number of five digits can stand; every text is searched for it, so it must be quick."""
AROUND = 12
BEFORE = 60
CARD_DIGITS, PHONE_DIGITS, ID_DIGITS = 12, 7, 6
ACCEPTED = 0.5
DATE = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})(?:[T ,]+\d{1,2}:\d\d\S*)?"
)
ID_FORMS = re.compile(r"\d{3}-\d{2}-\d{4}|\d{6}[-+]\d{4}")
"""Digits alone that are a national id (United States; Finland, Sweden) even if no word before says so."""
GROUPED = re.compile(r"(?<![\w./-])(?:\+\d|\(?0\d|\(\d|\d{3}[-. ]\d{3}[-. ]\d{4}\b)")
"""How a telephone number begins, or is grouped, where no word before says that it is one."""
NUMBER = re.compile(r"\d[\d ./-]*\d")
NAME = re.compile(r"\b([A-ZÀ-ÖØ-Þ][\w\u2019'-]+(?: [A-ZÀ-ÖØ-Þ][\w.\u2019'-]*){1,3})[^.!?\n\d]{0,30}$")
NO_NAMES = frozenset((
    "the", "your", "our", "their", "this", "that", "order", "number", "invoice", "case", "account", "reference",
    "ticket", "customer", "contract", "phone", "dear", "please", "version", "item", "product", "flight",
    "booking", "amount", "total", "january", "february", "march", "april", "may", "june", "july", "august",
    "september", "october", "november", "december", "monday", "tuesday", "wednesday", "thursday", "friday",
    "saturday", "sunday",
))  # fmt: skip
PHONE_WORDS = (
    "phone", "call", "mobile", "cell", "tel", "fax", "dial", "whatsapp", "sms", "reach", "ring", "handy",
)  # fmt: skip
ID_WORDS = (
    "national id", "identity", "social security", "ssn", "tax id", "passport", "personal code", "id number",
)  # fmt: skip
ID_RECOGNISERS = (
    "UsSsnRecognizer", "UkNinoRecognizer", "NhsRecognizer", "EsNifRecognizer", "EsNieRecognizer",
    "ItFiscalCodeRecognizer", "PlPeselRecognizer", "FiPersonalIdentityCodeRecognizer", "SgFinRecognizer",
    "DeTaxIdRecognizer", "SePersonnummerRecognizer", "TrNationalIdRecognizer", "KrRrnRecognizer",
    "ThTninRecognizer", "ZaIdNumberRecognizer", "CaSinRecognizer", "AuTfnRecognizer", "InAadhaarRecognizer",
)  # fmt: skip
REGIONS = ("US", "GB", "DE", "FR", "IN", "BR", "IL")


class Numbers:
    """Finds numbers by presidio's recognisers; the first text makes them."""

    def __init__(self, recognisers: Any) -> None:
        self._all = recognisers

    @cached_property
    def _card(self) -> Any:
        return self._all.CreditCardRecognizer()

    @cached_property
    def _ids(self) -> list[tuple[Any, list[re.Pattern[str]]]]:
        """Recognisers of national ids, each with its patterns: Python's `re` says sooner that none matches."""
        flags = re.DOTALL | re.MULTILINE | re.IGNORECASE
        recognisers = [getattr(self._all, name)() for name in ID_RECOGNISERS]
        return [(one, [re.compile(pattern.regex, flags) for pattern in one.patterns]) for one in recognisers]

    @cached_property
    def _phones(self) -> list[Any]:
        """One recogniser a region: the first that matches is enough."""
        return [self._all.PhoneRecognizer(supported_regions=(region,)) for region in REGIONS]

    def find(
        self, text: str, ibans: Sequence[tuple[int, int]] = (), *, everywhere: bool = False
    ) -> Iterator[Found]:
        """Yield the numbers of a text.

        Args:
            text: Any text.
            ibans: Where IBANs stand in it: their digits are no telephone number.
            everywhere: Let the recognisers see it whole, as a check of the runs.
        """
        runs = [(0, len(text))] if everywhere else [match.span() for match in RUN.finditer(text)]
        for first, last in runs:
            if not everywhere and DATE.fullmatch(text, first, last):
                continue
            low, high = max(0, first - AROUND), last + AROUND
            window = text[low:high]
            digits = sum(map(str.isdigit, window))
            found: list[Found] = []
            if digits >= CARD_DIGITS:
                found += self._cards(window)
            if digits >= ID_DIGITS:
                found += self._national_ids(window, text, low)
            taken = [(low + start, low + end) for _, start, end in found]
            if digits >= PHONE_DIGITS and _digits_beside(text, low, high, [*taken, *ibans]) >= PHONE_DIGITS:
                found += self._telephones(window, text, low)
            yield from ((tag, low + start, low + end) for tag, start, end in found)
            if not everywhere:
                yield from _after_names(text, first, last)
        if everywhere:
            for match in RUN.finditer(text):
                yield from _after_names(text, *match.span())

    def _cards(self, window: str) -> list[Found]:
        results = self._card.analyze(window, self._card.supported_entities)
        return [(Tag.CARD, one.start, one.end) for one in results if _whole(window, one.start, one.end)]

    def _national_ids(self, window: str, text: str, low: int) -> list[Found]:
        found = []
        for recogniser, patterns in self._ids:

            def said(start: int, words: tuple[str, ...] = (*ID_WORDS, *recogniser.context)) -> bool:
                return _said(text, low + start, words)

            matches = (match.span() for pattern in patterns for match in pattern.finditer(window))
            if not any(
                _id_form(window, *span) and (_sure(window, *span) or said(span[0])) for span in matches
            ):
                continue
            for one in recogniser.analyze(window, recogniser.supported_entities):
                place = one.start, one.end
                sure = one.score >= ACCEPTED and _sure(window, *place)
                if _id_form(window, *place) and (sure or said(one.start)):
                    found.append((Tag.NATIONAL_ID, *place))
        return found

    def _telephones(self, window: str, text: str, low: int) -> list[Found]:
        grouped = [match.start() for match in GROUPED.finditer(window)]
        first = RUN.search(window)
        if not grouped and (first is None or not _said(text, low + first.end(), PHONE_WORDS)):
            return []
        found: list[Found] = []
        left = sum(map(str.isdigit, window))
        for recogniser in self._phones:
            for one in recogniser.analyze(window, recogniser.supported_entities):
                form = window[one.start : one.end]
                if sum(map(str.isdigit, form)) < PHONE_DIGITS or DATE.fullmatch(form):
                    continue
                if GROUPED.match(form) or _said(text, low + one.start, PHONE_WORDS):
                    found.append((Tag.PHONE, one.start, one.end))
            covered = {place for _, start, end in found for place in range(start, end)}
            if left - sum(window[place].isdigit() for place in covered) < PHONE_DIGITS:
                break
        return found


def _digits_beside(text: str, low: int, high: int, spans: Iterable[tuple[int, int]]) -> int:
    """Return the number of digits from `low` to `high` that stand in none of the spans."""
    taken = {place for start, end in spans for place in range(start, end)}
    return sum(one.isdigit() and place not in taken for place, one in enumerate(text[low:high], start=low))


def _id_form(window: str, start: int, end: int) -> bool:
    """Whether a match has the digits of a national id, and is no part of a longer word or number."""
    return sum(map(str.isdigit, window[start:end])) >= ID_DIGITS and _whole(window, start, end)


def _sure(window: str, start: int, end: int) -> bool:
    """Whether a match can be a national id even if no word before says so."""
    form = window[start:end]
    return any(map(str.isalpha, form)) or bool(ID_FORMS.fullmatch(form))


def _whole(window: str, start: int, end: int) -> bool:
    """Whether a match is no part of a longer word or number."""
    before, after = window[start - 1 : start], window[end : end + 1]
    return not (before.isalnum() or after.isalnum())


def _said(text: str, at: int, words: tuple[str, ...]) -> bool:
    """Whether one of the words stands shortly before a place."""
    before = text[max(0, at - BEFORE) : at].casefold()
    return any(word.casefold() in before for word in words)


def _after_names(text: str, first: int, last: int) -> Iterator[Found]:
    """Yield the number of five digits that stands after a name of two or three words, in the same sentence."""
    match = NUMBER.match(text, first, last)
    if match is None or sum(map(str.isdigit, match.group())) < 5 or DATE.match(text, first):
        return
    name = NAME.search(text, max(0, first - BEFORE), first)
    if name is None:
        return
    if sum(word.casefold() not in NO_NAMES for word in name[1].split()) >= 2:
        yield Tag.NAME_NUMBER, match.start(), match.end()
