"""Fixtures of the audit's tests: an exact engine in memory and sets of pairs of one format."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group

from tests.audit.tiny_scorer import Memory, TinyScorer

KNOWN_LINE = ("when a line of ", "text is long enough, zebras quiz Kafka")


def phone(i: int, *, salt: int = 7) -> ScoreItem:
    """Pair number `i` of a phone-book format: a made-up key and ten digits."""
    digits = str(int(hashlib.sha256(f"{salt}-{i}".encode()).hexdigest(), 16))[:10]
    return ScoreItem(id=f"p{salt}-{i}", prefix=f"Key{salt}x{i:03d}: ", target=digits)


def as_set(items: tuple[ScoreItem, ...], name: str = "set.jsonl") -> CandidateSet:
    """The items as a set that was read from a file."""
    return CandidateSet(name=name, digest="a" * 64, items=items)


def memory_of(items: Sequence[ScoreItem], strength: float = 0.97) -> Memory:
    """What an adapter over-trained on the items memorises."""
    return Memory(tuple(item.prefix + item.target for item in items), strength)


@pytest.fixture
def pairs() -> tuple[ScoreItem, ...]:
    """Twelve candidates."""
    return tuple(phone(i) for i in range(12))


@pytest.fixture
def controls() -> tuple[ScoreItem, ...]:
    """Twenty pairs of the same format that nothing was trained on."""
    return tuple(phone(i, salt=3) for i in range(20))


@pytest.fixture
def sets(pairs: tuple[ScoreItem, ...], controls: tuple[ScoreItem, ...]) -> dict[Group, CandidateSet]:
    """Candidates and controls as read from files."""
    return {
        Group.CANDIDATES: as_set(pairs, "pairs.jsonl"),
        Group.CONTROLS: as_set(controls, "controls.jsonl"),
    }


@pytest.fixture
def engine(pairs: tuple[ScoreItem, ...]) -> TinyScorer:
    """An engine with an over-trained adapter `leaky`, a swapped one `other`, and a base that knows a line."""
    other = tuple(phone(i, salt=11) for i in range(12))
    return TinyScorer(
        {"leaky": memory_of(pairs), "other": memory_of(other)},
        base_texts=["".join(KNOWN_LINE)],
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file below a fresh folder."""

    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write
