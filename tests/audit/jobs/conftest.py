"""What the tests of the queue share."""

from datetime import UTC, datetime

import pytest


class Clock:
    """A clock that the test moves."""

    now = datetime(2026, 11, 23, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time now."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
