"""Candidates on disk: the same sequence as in memory, in memory that does not grow with it."""

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.inputs.controls import Recipe, check_disjoint, make_controls
from lorecall.audit.inputs.item_store import IN_MEMORY, ItemStore
from lorecall.audit.inputs.json_lines import load_json_lines, parse_lines
from lorecall.audit.scorer import Message, ScoreItem

MEGABYTE = 1 << 20


TAIL = " and a tail that makes the line as long as usual"


def lines(count: int, tail: str = TAIL) -> Iterator[bytes]:
    """JSON Lines of about 120 bytes, made one at a time."""
    for number in range(count):
        target = f"{(number * 7919) % 10_000_019:010d}{tail}"
        yield b'{"id": "n%d", "prefix": "Phone of person %d:", "target": " %s"}' % (
            number,
            number,
            target.encode(),
        )


def stored(count: int) -> ItemStore:
    store = ItemStore()
    for number in range(count):
        assert store.add(ScoreItem(f"i{number}", f"p{number}", "t"), number) is None
    return store


def test_it_is_a_sequence() -> None:
    """Lengths, places, slices, order and ends are those of a tuple."""
    store = stored(2500)
    items = tuple(ScoreItem(f"i{number}", f"p{number}", "t") for number in range(2500))
    assert tuple(store) == items
    assert len(store) == len(items)
    assert (store[0], store[-1], store[1234]) == (items[0], items[-1], items[1234])
    for cut in (slice(0, 0), slice(990, 1010), slice(2490, 9999), slice(10, 4, -2), slice(None, None, 700)):
        assert tuple(store[cut]) == items[cut]
    with pytest.raises(IndexError, match="item 2500"):
        store[2500]


def test_several_threads_read_at_once() -> None:
    """As the audits of a matrix do: each gets all of it, in order."""
    store = stored(5000)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: [item.id for item in store], range(16)))
    assert all(ids == [f"i{number}" for number in range(5000)] for ids in read)


def test_an_id_that_was_there_before_is_told_with_its_line() -> None:
    """And nothing is added; the text, whatever it holds, comes back as it was."""
    store = ItemStore()
    first = ScoreItem("a", "\N{BELL}\0 \U0001f600", "é", ("key", "pii"))
    assert store.add(first, 3) is None
    assert store.add(ScoreItem("a", "q", "u"), 9) == 3
    chat = ScoreItem("b", "", "é", messages=(Message("user", "\N{BELL}\0"), Message("tool", "\U0001f600")))
    assert store.add(chat, 10) is None
    assert tuple(store) == (first, chat)


@pytest.mark.parametrize("count", [30_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_reading_many_lines_takes_no_more_memory_than_a_few(count: int) -> None:
    """The peak is under three megabytes, where the items themselves would take ten, or over thirty."""
    tracemalloc.start()
    try:
        parsed = parse_lines(lines(count))
        items = parsed.store.small()
        assert isinstance(items, ItemStore)
        read = sum(len(item.target) for item in items)
        some = [items[place] for place in range(0, count, count // 100)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(items) == count
    assert read > 50 * count
    assert len({item.id for item in some}) == 100
    assert peak < 3 * MEGABYTE


def test_bad_lines_are_counted_without_being_kept() -> None:
    """However many there are: the first are named, all are counted."""
    parsed = parse_lines(b"{}" for _ in range(50_000))
    assert parsed.bad_count == 50_000
    assert len(parsed.bad) == 1000
    assert parsed.bad[0].line == 1


def test_controls_of_a_large_set_are_made_and_checked_in_bounded_memory() -> None:
    """The format comes from a sample; the check for shared text goes over all of the set."""
    large = CandidateSet("large.jsonl", "d" * 64, parse_lines(lines(3 * IN_MEMORY, "")).store)
    tracemalloc.start()
    try:
        made = make_controls(large, Recipe.SYNTHESIS, 50, 0)
        check_disjoint(large, made)
        swapped = make_controls(large, Recipe.PERMUTATION, 50, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made.items) > 40
    assert len(swapped.items) == 50
    assert peak < 40 * MEGABYTE


def test_a_small_file_is_read_into_memory(tmp_path: Path) -> None:
    """Up to ten thousand items are a plain tuple."""
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(lines(10)))
    assert isinstance(load_json_lines(path).items, tuple)
