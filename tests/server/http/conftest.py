"""What tests of the routes share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.registry.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    yield opened
    opened.close()
