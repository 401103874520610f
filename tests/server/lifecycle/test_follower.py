"""The follower's housekeeping; that servers converge is in fleet/."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.server.lifecycle.follower import COLLECT_S, Follower
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry


def test_the_store_is_swept_once_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nothing can make live any more is deleted, not at every look but once in COLLECT_S."""
    swept: list[float] = []
    clock = [0.0]

    def collect() -> tuple[str, ...]:
        swept.append(clock[0])
        return ()

    plane: Any = SimpleNamespace(intake=SimpleNamespace(collect=collect))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    looks = Follower(plane, Metrics(4, CollectorRegistry()), 1.0, lambda: None)

    async def look() -> None:
        for now in (0.0, COLLECT_S - 1, COLLECT_S, COLLECT_S + 1, 2 * COLLECT_S):
            clock[0] = now
            await looks.collect()

    asyncio.run(look())
    assert swept == [COLLECT_S, 2 * COLLECT_S]
