"""What runs when a server stops is finished, and nothing new begins."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from lorecall.server.lifecycle.stopping import Stopping, StoppingError, drain_before_shutdown

LONG = 60.0


class Engine:
    """A client of an engine; notes how many requests ran when it was shut down, and what time was left."""

    def __init__(self, stopping: Stopping) -> None:
        self.errored = False
        self.ended: list[tuple[int, float | None]] = []
        self._stopping = stopping

    def shutdown(self, timeout: float | None = None) -> None:
        """End."""
        self.ended.append((self._stopping.running, timeout))


def made(seconds: float) -> tuple[Stopping, Engine]:
    """Return what counts, and an engine that it drains."""
    stopping = Stopping()
    engine = Engine(stopping)
    drain_before_shutdown(engine, stopping, seconds)
    return stopping, engine


def test_the_engine_ends_after_the_last_request() -> None:
    """New requests are refused at once, and the engine works until the one that runs is over."""
    stopping, engine = made(LONG)
    with stopping.counted():
        ending = threading.Thread(target=engine.shutdown, kwargs={"timeout": LONG})
        ending.start()
        while not stopping.begun:
            threading.Event().wait(0.01)
        with pytest.raises(StoppingError), stopping.counted():
            pass
        assert not engine.ended
    ending.join(LONG)
    ((running, left),) = engine.ended
    assert running == 0
    assert left is not None
    assert 0 < left <= LONG


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_what_runs_on_for_too_long_is_cut(seconds: float) -> None:
    """When the time is over the engine ends all the same, with no time of its own left."""
    stopping, engine = made(seconds)
    with stopping.counted():
        engine.shutdown(timeout=seconds)
    ((running, left),) = engine.ended
    assert running == 1
    assert left == pytest.approx(0, abs=1e-2)


def errored(engine: Engine) -> None:
    """Shut down an engine that has died."""
    engine.errored = True
    engine.shutdown()


def in_loop(engine: Engine) -> None:
    """Shut an engine down in the thread of a loop."""

    async def end() -> None:
        engine.shutdown()

    asyncio.run(end())


@pytest.mark.parametrize("end", [errored, in_loop])
def test_where_nothing_could_finish_nothing_is_waited_for(end: Callable[[Engine], None]) -> None:
    """A dead engine answers no request, and a loop that waits lets none end."""
    stopping, engine = made(1e9)
    with stopping.counted():
        end(engine)
    assert engine.ended == [(1, None)]
