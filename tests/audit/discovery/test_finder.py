"""Spans that would hurt are found where they are, and what is asked before a recogniser loses none of them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.demo_data.chats import generate_chats
from lorecall.audit.discovery import finder as finder_module
from lorecall.audit.discovery.finder import Finder, Span, Tag, load
from lorecall.audit.discovery.spans import resolve

TEXTS = {
    "Write to anna.k@internal.corp soon.": {"anna.k@internal.corp": "email"},
    "Call +1 201-555-0123 or 030 1234567 today.": {"+1 201-555-0123": "phone", "030 1234567": "phone"},
    "Pay to DE89 3704 0044 0532 0130 00 today": {"DE89 3704 0044 0532 0130 00": "iban"},
    "AB12 DE89 3704 0044 0532 0130 00, call +1 201-555-0123": {
        "DE89 3704 0044 0532 0130 00": "iban",
        "+1 201-555-0123": "phone",
    },
    "with 4000 0000 0000 0002 please": {"4000 0000 0000 0002": "card"},
    "with 4000 0000 0000 0003 please": {},
    "SSN 219-09-9999, code 131052-308T": {"219-09-9999": "national-id", "131052-308T": "national-id"},
    "Phone of Tromaird Kloudk: 555-0123": {"555-0123": "name-number"},
    "Your Order Number is 48213377 of 2024-05-12 13:45": {},
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789 works": {"ghp_abcdefghijklmnopqrstuvwxyz0123456789": "key"},
    "API key of Gluxmai: fake-abcdefgh23456789": {"fake-abcdefgh23456789": "key"},
    "postgres://bob:hunter2@db.example/x": {"hunter2": "password"},
    "The password is Xk3!long. It is required": {"Xk3!long": "password"},
    "a password is required, and db_password = 'abc def'": {"abc def": "password"},
    "id 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b": {"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b": "entropy"},
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7bq\n-----END": {"MIIEowIBAAKCAQEA7bq": "key"},
    "Nothing here 12, 2024, 3.50 and https://a.example/some/long/path/of/words": {},
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items(), ids=range(len(TEXTS)))
def test_each_kind_is_found_at_its_place(finder: Finder, text: str, expected: dict[str, str]) -> None:
    """A wrong checksum, a date and a sentence about passwords are no finds."""
    assert {text[span.start : span.end]: str(span.tags[0]) for span in finder.find(text)} == expected


def test_of_two_that_overlap_the_surer_wins_and_takes_the_tag() -> None:
    """The order of `Tag`, then the longer, then the first."""
    found = [(Tag.ENTROPY, 0, 30), (Tag.KEY, 5, 20), (Tag.PHONE, 40, 50), (Tag.PHONE, 45, 60)]
    assert resolve(found) == [Span(5, 20, (Tag.KEY, Tag.ENTROPY)), Span(45, 60, (Tag.PHONE,))]


def places(spans: list[Span]) -> list[tuple[int, int, Tag]]:
    """Return where spans are, with their first tag."""
    return [(span.start, span.end, span.tags[0]) for span in spans]


def test_nothing_is_lost_on_the_planted_set(finder: Finder) -> None:
    """On chats with every kind of secret the quick way finds what recognisers find that see each whole text."""
    secrets = generate_chats(700, 40, seed=3)
    at = {row for secret in secrets.planted for row in secret.rows[:1]} | set(range(1, 40))
    texts = [
        message["content"]
        for number, row in enumerate(secrets.rows(), start=1)
        if number in at
        for message in row["messages"]  # type: ignore[attr-defined]
    ]
    found = [places(finder.find(text)) for text in texts]
    assert found == [places(finder.find(text, everywhere=True)) for text in texts]
    assert sum(map(len, found)) >= 40


PIECES = (
    *"0123456789 -+()./@:_='\"\n", "AKIA", "ghp_", "DE89", "4000 0000 0000 0002", "030 1234567", "password",
    " is ", "eyJ", "+44 20 7946 0018", "131052-308T", "219-09-9999", "a", "Z9x", "Anna Klein", "://",
    "GB29NWBK60161331926819", "abcDEF0123456789abcdefghij", " order ", " at ", "x@y.zz", "AB 12 34 56 C",
    "tel ", "passport ",
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_nothing_is_lost_on_generated_texts(finder: Finder, text: str) -> None:
    """Whatever stands next to what: each place of the slow way is found, unless a surer one lies over it."""
    quick = finder.find(text)
    for start, end, tag in places(finder.find(text, everywhere=True)):
        assert any(span.start < end and start < span.end for span in quick), (text, tag)


def test_tags_choose(finder: Finder) -> None:
    """Only what was asked for is returned; an unknown tag is refused."""
    text = "Write to a.b@c.example, card 4000 0000 0000 0002"
    assert [span.tags[0] for span in Finder(["card"]).find(text)] == [Tag.CARD]
    assert len(finder.find(text)) == 2
    with pytest.raises(UsageError, match="unknown tag 'cards'"):
        Finder(["cards"])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""

    def missing(_: str) -> None:
        raise ImportError

    monkeypatch.setattr(finder_module, "import_module", missing)
    with pytest.raises(UsageError, match=r"needs presidio_analyzer .*lorecall\[discover\]"):
        load("presidio_analyzer.predefined_recognizers")


def test_a_long_text_takes_linear_time(finder: Finder) -> None:
    """A hundred thousand characters of what the patterns begin with end without a timeout of the test."""
    rng = random.Random(1)  # noqa: S311
    text = "".join(rng.choices("0123456789 aA@-", k=20_000))
    assert finder.find(text) is not None
    assert finder.find("password " * 5_000) == []
