"""A store and an adapter for it, for the tests of this folder."""

import os
from pathlib import Path

import pytest
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / CONFIG_FILE).write_bytes(b'{"r": 4}')
    (directory / WEIGHTS_FILE).write_bytes(os.urandom(3_000_000))
    (directory / TRAINING_FILE).write_bytes(b'{"seed": 1}')
    (directory / "optimizer.pt").write_bytes(b"never copied")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def staged(store: Store) -> list[Path]:
    return list((store.root / ".staging").iterdir())
