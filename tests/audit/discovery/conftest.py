"""Shared by the tests of discovery: one finder, because loading presidio takes seconds."""

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from lorecall.audit.discovery.finder import Finder
from lorecall.audit.training_data.rows import TrainingData, open_training_data

Chat = Iterable[tuple[str, str]]
OpenChats = Callable[[Iterable[Chat]], TrainingData]


@pytest.fixture(scope="session")
def finder() -> Finder:
    """Every recogniser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what spaCy and its friends warn of while they are imported
        return Finder()


@pytest.fixture
def chats(tmp_path: Path) -> OpenChats:
    """Write chats of (role, text) as a training file, and open it."""

    def opened(rows: Iterable[Chat]) -> TrainingData:
        path = tmp_path / "train.jsonl"
        lines = [
            json.dumps({"messages": [{"role": role, "content": text} for role, text in row]}) for row in rows
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return open_training_data(str(path))

    return opened
