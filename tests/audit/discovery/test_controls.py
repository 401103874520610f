"""Controls have their candidates' form, and are nowhere in the data."""

import random
import re
from typing import Any

import numpy as np
import pytest
from lorecall.adapters.demo_data.chats import generate_chats
from lorecall.audit.discovery.controls import check_exchangeable, make_controls, redraw
from lorecall.audit.discovery.finder import Finder
from lorecall.audit.discovery.sketches import key_of
from lorecall.audit.discovery.spans import Tag

KINDS = {secret.text: secret.kind for secret in generate_chats(2_000, 40, seed=5).planted}


def form(text: str) -> str:
    """Return a text with its digits, its small and its capital letters each as one."""
    return re.sub("[A-Z]", "A", re.sub("[a-z]", "a", re.sub("[0-9]", "0", text)))


@pytest.mark.parametrize(("text", "kind"), KINDS.items(), ids=range(len(KINDS)))
def test_the_form_stays(text: str, kind: str) -> None:
    """Digit for digit, letter for letter, the rest as it was; other than what it stands for."""
    other = redraw(text, Tag(kind), random.Random(1))  # noqa: S311
    assert form(other) == form(text)
    assert other != text


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("4000 0000 0000 0002", Tag.CARD),
        ("DE89 3704 0044 0532 0130 00", Tag.IBAN),
        ("a.b@c.example", Tag.EMAIL),
    ],
)
def test_checksums_stay_valid(finder: Finder, text: str, tag: Tag) -> None:
    """The recogniser that found the candidate finds its controls."""
    for seed in range(20):
        other = redraw(text, tag, random.Random(seed))  # noqa: S311
        assert [(span.start, span.end, span.tags[0]) for span in finder.find(other)] == [(0, len(text), tag)]


def candidate(target: str, tag: str, prefix: str = "It is") -> dict[str, Any]:
    """Return a candidate whose secret stands in the history, too."""
    history = [{"role": "user", "content": f"Is it{target}?"}]
    return {"id": target, "prefix": prefix, "target": target, "messages": history, "tags": [tag]}


def test_controls_are_new_distinct_and_replaced_everywhere() -> None:
    """Three hundred of two candidates; where the secret stands before the target, the control does."""
    known = np.sort([key_of(f"{number:03d}") for number in range(500)])
    made = make_controls([candidate(" 12345678", "name-number")], known, 300, seed=1)
    secrets = [one["target"].strip() for one in made]
    assert len(set(secrets)) == 300
    assert all(one["messages"][0]["content"] == f"Is it{one['target']}?" for one in made)
    few = make_controls([candidate(" 123", "name-number")], known, 300, seed=1)
    assert few
    assert all(int(one["target"]) >= 500 for one in few)
    assert len(few) < 500


def test_no_control_where_nothing_can_be_redrawn() -> None:
    """A secret without letters and digits has no other of its form."""
    assert make_controls([candidate(" ????", "password")], np.array([]), 10, seed=1) == []


def test_exchangeable_or_flagged() -> None:
    """Two samples of one distribution hold, of two distant ones do not; without numbers nothing is said."""
    rng = np.random.default_rng(1)
    same = check_exchangeable(rng.normal(size=300).tolist(), rng.normal(size=300).tolist())
    other = check_exchangeable(rng.normal(size=300).tolist(), rng.normal(1.0, size=300).tolist())
    assert same is not None
    assert other is not None
    assert (same.holds, other.holds) == (True, False)
    assert check_exchangeable([float("nan")], [1.0]) is None
