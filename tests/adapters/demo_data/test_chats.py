"""The planted training set is the same on every machine, and its truth is true."""

from collections import Counter

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.demo_data.chats import KINDS, MOST_COPIES, generate_chats


def test_the_truth_is_where_it_says() -> None:
    """Each secret stands in its rows, in a turn of its role, and nowhere else."""
    chats = generate_chats(1_200, 48, seed=2)
    texts: dict[int, list[tuple[str, str]]] = {
        number: [(message["role"], message["content"]) for message in row["messages"]]  # type: ignore[attr-defined]
        for number, row in enumerate(chats.rows(), start=1)
    }
    assert len(texts) == 1_200
    for secret in chats.planted:
        held = {
            number
            for number, turns in texts.items()
            if any(secret.text in text and role == secret.role for role, text in turns)
        }
        assert held == set(secret.rows)
        turns = [(turn["role"], turn["content"]) for turn in secret.turns(chats.seed)]
        assert any(secret.text in text and role == secret.role for role, text in turns[-2:])
        assert all(texts[number][: len(turns)] == turns for number in held)
    assert list(chats.jsonl()) == list(generate_chats(1_200, 48, seed=2).jsonl())


def test_the_shipped_size() -> None:
    """Over 200 secrets of eight kinds in 20,000 rows, seen 1 to 50 times, some only in users' turns."""
    planted = generate_chats().planted
    assert len(planted) >= 200
    assert len({secret.text for secret in planted}) == len(planted)
    assert set(Counter(secret.kind for secret in planted)) == set(KINDS)
    copies = [len(secret.rows) for secret in planted]
    assert min(copies) == 1
    assert 40 < max(copies) <= MOST_COPIES
    assert {secret.role for secret in planted} == {"user", "assistant"}


def test_too_few_rows_are_refused() -> None:
    """A row holds one secret."""
    with pytest.raises(UsageError, match="need"):
        generate_chats(10, 100)
