"""Throttle audits so that live requests keep their latency.

vLLM's priority only orders its queue. Requests that are running share every step, and a step takes as long as all
of them need: eight texts to score between two tokens of an answer delay that answer by eight texts. So fewer
background requests may run while a live request runs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Background:
    """Limits the background requests in the engine; all on one event loop.

    Attributes:
        unfinished: Returns how many requests the engine has, background requests included.
        alone: The limit while there is no live request.
        beside: The limit while there are live requests; at least 1, so that every audit ends.
        inside: How many background requests are in the engine now.
    """

    unfinished: Callable[[], int]
    alone: int
    beside: int
    inside: int = 0
    _left: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def room(self) -> int:
        """How many more background requests may start now."""
        live = self.unfinished() > self.inside
        return (self.beside if live else self.alone) - self.inside

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for room, and count as one background request inside the block."""
        async with self._left:
            await self._left.wait_for(lambda: self.room > 0)
            self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            async with self._left:
                self._left.notify(max(self.room, 0))
