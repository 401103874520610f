"""Threads for calls that block for long, apart from those that `asyncio.to_thread` uses for short ones.

A database read waits for no download and for no hash: those have threads of their own, and the loop's own are for
the database and what is as short.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SHORT_CALLS = 12
"""Fewer than the database's pool has connections, which is 15."""
ADDS = 8
DOWNLOADS = 8
DISK = 2
ENGINES = 16
TEXTS = 1
"""One: more would share the interpreter's lock with the loop all the same."""

_adds = ThreadPoolExecutor(ADDS, "lorecall-add")
_downloads = ThreadPoolExecutor(DOWNLOADS, "lorecall-download")
_engines = ThreadPoolExecutor(ENGINES, "lorecall-engine")
_texts = ThreadPoolExecutor(TEXTS, "lorecall-text")
_disk = ThreadPoolExecutor(DISK, "lorecall-disk")


def keep_for_short_calls(loop: asyncio.AbstractEventLoop) -> None:
    """Give a loop enough threads for the database: its default is six on a machine of two cores."""
    loop.set_default_executor(ThreadPoolExecutor(SHORT_CALLS, "lorecall-short"))


async def take_in(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what fetches and stores an adapter for a caller who adds it; at most `ADDS` at a time."""
    return await _on(_adds, partial(call, *args, **kwargs))


async def download(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what fetches a registered version to serve it: no caller's adds hold it up; `DOWNLOADS` at a time."""
    return await _on(_downloads, partial(call, *args, **kwargs))


async def on_disk(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what reads stored adapters through, or deletes them; at most `DISK` at a time."""
    return await _on(_disk, partial(call, *args, **kwargs))


async def ask_engine(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what asks an engine and waits: another server's, or this one's, which may load an adapter."""
    return await _on(_engines, partial(call, *args, **kwargs))


async def off_loop(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what computes for long on texts: tokens of many, JSON of a long answer; one after the other."""
    return await _on(_texts, partial(call, *args, **kwargs))


async def _on(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    """Call on a pool's thread, with the caller's context, as `asyncio.to_thread` does: it holds the request."""
    return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, call)
