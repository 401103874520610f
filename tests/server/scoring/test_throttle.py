"""Background requests: many in an idle engine, few beside live ones, and never none."""

import asyncio
from dataclasses import dataclass

from lorecall.server.scoring.throttle import Background


@dataclass
class Engine:
    """An engine, as far as its number of requests goes."""

    live: int = 0
    background: int = 0
    most: int = 0

    def unfinished(self) -> int:
        """Requests of both kinds."""
        return self.live + self.background

    async def run(self, gate: Background) -> None:
        """Be in the engine for a few turns of the loop."""
        async with gate.turn():
            self.background += 1
            self.most = max(self.most, self.background)
            for _ in range(3):
                await asyncio.sleep(0)
            self.background -= 1


def most_at_once(engine: Engine, requests: int, *, leave_after: int | None = None) -> int:
    """Run background requests to their end; return how many were in the engine together at most."""

    async def run_all() -> None:
        gate = Background(engine.unfinished, alone=4, beside=1)
        tasks = [asyncio.create_task(engine.run(gate)) for _ in range(requests)]
        if leave_after is not None:
            await asyncio.gather(*tasks[:leave_after])
            assert engine.most == 1
            engine.live = 0
        await asyncio.gather(*tasks)
        assert gate.inside == 0

    asyncio.run(run_all())
    return engine.most


def test_an_idle_engine_is_filled() -> None:
    """Up to the most that may be in it, and all come through."""
    assert most_at_once(Engine(), 11) == 4


def test_beside_live_requests_they_go_one_by_one() -> None:
    """All come through, however long the live requests last."""
    assert most_at_once(Engine(live=2), 7) == 1


def test_when_the_last_live_request_ends_the_engine_is_filled_again() -> None:
    """The next that leaves lets in as many as there is room for."""
    assert most_at_once(Engine(live=1), 12, leave_after=3) == 4


def test_one_that_fails_leaves_its_place() -> None:
    """An error, or a caller who goes away, holds no place."""

    async def run() -> int:
        gate = Background(lambda: 1, alone=1, beside=1)
        waiting = asyncio.create_task(asyncio.sleep(0))

        async def fail() -> None:
            async with gate.turn():
                await waiting
                raise ValueError

        async def hold() -> None:
            async with gate.turn():
                await asyncio.sleep(3600)

        assert isinstance((await asyncio.gather(fail(), return_exceptions=True))[0], ValueError)
        first, second = asyncio.create_task(hold()), asyncio.create_task(hold())
        for task in (second, first):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        return gate.inside

    assert asyncio.run(run()) == 0
