"""Calls that block for long: on threads of their own, with the request that they are made for."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.adapters.access.rate_limit import RateLimiter, RateLimits
from lorecall.server import executors
from lorecall.server.assembly import close_at_the_end
from lorecall.server.auth.request_context import RequestContext, current, sees
from lorecall.server.http import audits

LONG = (executors.take_in, executors.download, executors.on_disk, executors.ask_engine)


@pytest.mark.parametrize("call", LONG)
def test_a_call_knows_its_request(call: Callable[..., Awaitable[Any]]) -> None:
    """What a key may see holds on these threads too."""
    key = ApiKey("1", "k", "0" * 64, frozenset({Scope.AUDIT}), ("acme-*",), RateLimits(), None)

    async def run() -> list[Any]:
        current.set(RequestContext(key=key))
        return [await call(sees, name) for name in ("acme-one", "globex-one")]

    assert asyncio.run(run()) == [True, False]


def test_the_database_has_threads_that_no_long_call_takes() -> None:
    """With every long call's threads taken, short calls go on; so do as many as there are threads for them."""

    async def run() -> None:
        loop, go_on = asyncio.get_running_loop(), threading.Event()
        executors.keep_for_short_calls(loop)
        try:
            longs = [asyncio.create_task(call(go_on.wait, 100)) for call in LONG for _ in range(50)]
            together = threading.Barrier(executors.SHORT_CALLS)
            shorts = (asyncio.to_thread(together.wait, 100) for _ in range(executors.SHORT_CALLS))
            assert sorted(await asyncio.gather(*shorts)) == list(range(executors.SHORT_CALLS))
            assert not any(task.done() for task in longs)
        finally:
            go_on.set()
        assert all(await asyncio.gather(*longs))

    asyncio.run(run())


def test_orders_that_wait_for_a_cold_adapter_hold_up_no_reads() -> None:
    """Each has its adapter loaded, which reads the database: on its threads they would wait for each other."""
    loaded, begun = threading.Event(), threading.Semaphore(0)

    def submit(*_order: Any) -> Any:
        begun.release()
        assert loaded.wait(100)
        raise SystemError("not the matter of this test")

    app = FastAPI()
    app.include_router(audits.router)
    app.state.lorecall_audits = SimpleNamespace(submit=submit, audits=lambda *_asked: [], max_snippets=100)

    async def run() -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            body = {"adapter": "acme", "candidates": [{"id": "1", "prefix": "a", "target": "b"}]}
            waiting = [asyncio.create_task(client.post("/v1/audits", json=body)) for _ in range(60)]
            try:
                for _ in range(6):  # as many as the loop's own threads here
                    await executors.download(begun.acquire)
                assert (await client.get("/v1/audits")).json() == {"audits": []}
                assert not any(task.done() for task in waiting)
            finally:
                loaded.set()
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {500}

    asyncio.run(asyncio.wait_for(run(), 120))


def test_the_end_of_the_server_ends_its_downloads() -> None:
    """The process waits for its threads, so they must end."""
    stopped: list[bool] = []
    pipeline: Any = SimpleNamespace(stop=lambda: stopped.append(True))

    async def run() -> None:
        task = asyncio.create_task(close_at_the_end(pipeline, RateLimiter()))
        await asyncio.sleep(0)
        assert not stopped
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert stopped == [True]
