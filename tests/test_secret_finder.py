"""The finder finds what the tests rely on it to find."""

import base64
import json
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.secret_finder import SecretFinder

SECRET = "Zoë's key is 4471-kX & more"  # noqa: S105  a text to look for
IDS = [ord(c) for c in SECRET]


def decode(ids: Sequence[int]) -> str:
    """A tokenizer with a token for each character."""
    return "".join(chr(one) for one in ids if one < 0x110000)


@pytest.mark.parametrize(
    "text",
    [
        f"a line with {SECRET[3:20]} in it",
        json.dumps({"x": SECRET}),
        "<td>Zo&euml;&#x27;s key is 4471-kX &amp; more</td>",
        "q=Zo%C3%AB%27s+key+is+4471-kX",
        f"tensor([{IDS}])",
        " ".join(map(str, IDS)),
        json.dumps({"tokens": [{"id": one, "p": 0.5, "rank": 1} for one in IDS]}),
        json.dumps([[n, one] for n, one in enumerate(IDS)]),
        base64.b64encode(b"xy" + SECRET.encode()).decode(),
        base64.urlsafe_b64encode(b"?>?>" + SECRET.encode()).decode(),
        SECRET.encode().hex(),
        base64.b64encode(zlib.compress(SECRET.encode())).decode(),
    ],
)
def test_a_secret_is_found_in_every_form(text: str) -> None:
    """As text, escaped, as ids, packed."""
    assert SecretFinder([SECRET], decode).found("x", text)
    assert not SecretFinder(["another text, nowhere to be seen"], decode).found("x", text)


def test_a_secret_is_found_in_a_database(tmp_path: Path) -> None:
    """One token a row, in a column of integers."""
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("CREATE TABLE rows (place INTEGER, token INTEGER)")
        db.executemany("INSERT INTO rows VALUES (?, ?)", list(enumerate(IDS)))
    assert any("rows.token" in place for place in SecretFinder([SECRET], decode).found_in(tmp_path))
