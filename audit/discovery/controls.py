"""Controls of the candidates' own form: the same texts with another number, key or name in the secret's place."""

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from lorecall.audit.discovery.sketches import key_of
from lorecall.audit.discovery.spans import Tag
from lorecall.audit.stats.calibration import LEVEL, compare_samples

TRIES = 50
VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnprstvwz"
KEPT_DIGITS = 3
KEY_START = re.compile(r"(?:[A-Za-z]{2,8}[_-])*")
HEX = re.compile("[0-9A-Fa-f]+")


@dataclass(frozen=True, slots=True)
class Exchangeability:
    """Whether controls look to the base like the candidates they stand for.

    Attributes:
        statistic: The largest distance between the two distributions of surprise (two-sample Kolmogorov-Smirnov).
        p_value: How likely so large a distance is among texts of one kind.
        holds: Whether the p-value is at least 0.01.
    """

    statistic: float
    p_value: float
    holds: bool


def check_exchangeable(candidates: Sequence[float], controls: Sequence[float]) -> Exchangeability | None:
    """Compare the base's surprise at candidates and at their controls; None where either is unknown."""
    own, theirs = ([value for value in values if np.isfinite(value)] for values in (candidates, controls))
    found = compare_samples(own, theirs)
    return None if found is None else Exchangeability(*found, holds=found[1] >= LEVEL)


def make_controls(
    candidates: Sequence[dict[str, Any]], known: Any, count: int, seed: int
) -> list[dict[str, Any]]:
    """Return controls, each with the id of its candidate as `of`; fewer where no new text can be drawn.

    Args:
        candidates: Whose form they take, one after the other.
        known: Keys of all spans of the data, sorted: no control is one of them.
        count: How many.
        seed: Seed of the random choices.
    """
    rng = random.Random(seed)  # noqa: S311  not for secrets
    taken: set[int] = set()
    made: list[dict[str, Any]] = []
    for candidate in islice(cycle(candidates), TRIES * count if candidates else 0):
        if len(made) == count:
            break
        secret = candidate["target"].removeprefix(" ")
        other = _unknown(secret, Tag(candidate["tags"][0]), known, taken, rng)
        if other is None:
            continue
        taken.add(key_of(other))
        messages = [
            {"role": one["role"], "content": one["content"].replace(secret, other)}
            for one in candidate["messages"]
        ]
        made.append(
            {
                "id": f"control-{len(made):06d}",
                "of": candidate["id"],
                "prefix": candidate["prefix"].replace(secret, other),
                "target": candidate["target"].replace(secret, other),
                "messages": messages,
                "tags": candidate["tags"],
            }
        )
    return made


def _unknown(secret: str, tag: Tag, known: Any, taken: set[int], rng: random.Random) -> str | None:
    """Return another text of the form that is neither in the data nor drawn before; None if there is none."""
    for _ in range(TRIES):
        other = redraw(secret, tag, rng)
        key = key_of(other)
        if key != key_of(secret) and key not in taken and not _among(key, known):
            return other
    return None


def _among(key: int, known: Any) -> bool:
    place = int(np.searchsorted(known, key))
    return place < len(known) and int(known[place]) == key


def redraw(secret: str, tag: Tag, rng: random.Random) -> str:
    """Return another text of the same form.

    Digits become digits, letters letters of the same case; all else stays. Cards and IBANs keep a valid checksum,
    IBANs their country, telephone numbers their first digits, keys what such as "ghp_" they begin with. Words of
    an e-mail address become words that can be spoken; the last part of its domain stays.
    """
    match tag:
        case Tag.CARD:
            return _with_luhn(_characters(secret, rng, kept=1))
        case Tag.IBAN:
            return _with_mod97(secret[:4] + _characters(secret[4:], rng))
        case Tag.EMAIL:
            local, _, domain = secret.rpartition("@")
            host, dot, end = domain.rpartition(".")
            return f"{_words(local, rng)}@{_words(host, rng)}{dot}{end}"
        case Tag.PHONE:
            return _characters(secret, rng, kept=KEPT_DIGITS)
        case Tag.KEY | Tag.ENTROPY:
            found = KEY_START.match(secret)
            start = found[0] if found else ""
            alphabet = "abcdef" if HEX.fullmatch(secret) else string.ascii_lowercase
            return start + _characters(secret[len(start) :], rng, alphabet=alphabet)
        case _:
            return _characters(secret, rng)


def _characters(
    text: str, rng: random.Random, *, kept: int = 0, alphabet: str = string.ascii_lowercase
) -> str:
    """Redraw digits and letters; the first `kept` digits stay, and so does whether the first digit is a zero."""
    made, digits = [], 0
    for one in text:
        if one.isdigit():
            digits += 1
            low = 1 if digits == 1 and one != "0" else 0
            stays = digits <= kept or (digits == 1 and one == "0")
            made.append(one if stays else str(rng.randrange(low, 10)))
        else:
            made.append(_letter(one, alphabet, rng))
    return "".join(made)


def _letter(one: str, alphabet: str, rng: random.Random) -> str:
    """Return a letter of an alphabet in the case of the given one; what is no letter stays."""
    if not one.isalpha():
        return one
    drawn = rng.choice(alphabet)
    return drawn.upper() if one.isupper() else drawn


def _words(text: str, rng: random.Random) -> str:
    """Redraw letters so that vowels stay vowels and consonants consonants; digits are redrawn, too."""
    return "".join(
        str(rng.randrange(10))
        if one.isdigit()
        else _letter(one, VOWELS if one.casefold() in VOWELS else CONSONANTS, rng)
        for one in text
    )


def _with_luhn(text: str) -> str:
    """Replace the last digit by the one that the Luhn formula (ISO/IEC 7812-1) asks for."""
    places = [place for place, one in enumerate(text) if one.isdigit()]
    total = 0
    for number, place in enumerate(reversed(places[:-1])):
        value = int(text[place]) * (1 if number % 2 else 2)
        total += value - 9 if value > 9 else value
    return text[: places[-1]] + str(-total % 10) + text[places[-1] + 1 :]


def _with_mod97(text: str) -> str:
    """Replace the check digits of an IBAN by those that ISO 13616 asks for."""
    plain = "".join(one for one in text if one.isalnum()).upper()
    number = "".join(str(int(one, 36)) for one in plain[4:] + plain[:2] + "00")
    return text[:2] + f"{98 - int(number) % 97:02d}" + text[4:]
