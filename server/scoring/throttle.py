"""Audits go into the engine beside live traffic, and must not be felt there.

vLLM's priority orders its queue. What has been let in shares every step with live requests, and a step lasts as
long as all that is in it: eight texts to score between two tokens of an answer make that answer's reader wait for
eight texts. So how many background requests are in the engine depends on whether a live one is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Background:
    """Lets background requests into the engine; all of them on one event loop.

    Attributes:
        unfinished: Says how many requests the engine has, those of the background included.
        alone: The most at a time in an engine without live requests.
        beside: The most at a time beside live ones; at least 1, so that an audit always comes to its end.
        inside: How many are in the engine now.
    """

    unfinished: Callable[[], int]
    alone: int
    beside: int
    inside: int = 0
    _left: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def room(self) -> int:
        """How many more may enter now."""
        live = self.unfinished() > self.inside
        return (self.beside if live else self.alone) - self.inside

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for room, and hold a place in the engine inside the block."""
        async with self._left:
            await self._left.wait_for(lambda: self.room > 0)
            self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            async with self._left:
                self._left.notify(max(self.room, 0))
