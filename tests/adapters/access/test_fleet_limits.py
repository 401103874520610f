"""Rate limits over a real Redis: for a whole fleet what they are in one process; its absence lifts none."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from lorecall.adapters.access import fleet_limits
from lorecall.adapters.access.fleet_limits import FleetBuckets, make_buckets
from lorecall.adapters.access.rate_limit import Bucket, OwnBuckets, RateLimitedError, RateLimiter, RateLimits
from lorecall.adapters.core.errors import UsageError

from tests.redis_server import Redis

HOUR = {"a": RateLimits(requests_per_minute=3, tokens_per_minute=100)}


@asynccontextmanager
async def two_processes(server: Redis) -> AsyncIterator[list[RateLimiter]]:
    """The limiters of two processes."""
    buckets = [FleetBuckets(server.url) for _ in range(2)]
    yield [RateLimiter(one) for one in buckets]
    for one in buckets:
        await one.aclose()


async def admitted(limiter: RateLimiter, limits: dict[str, RateLimits], tries: int = 1, **more: Any) -> int:
    """How many of some requests are admitted."""
    found = 0
    for _ in range(tries):
        try:
            await (await limiter.admit(limits, **more)).finish()
        except RateLimitedError:
            continue
        found += 1
    return found


def test_processes_share_a_limit(redis: Redis) -> None:
    """Two processes on one Redis admit together what one would: of ten requests each, three."""

    async def run() -> None:
        async with two_processes(redis) as (one, two):
            found = await asyncio.gather(admitted(one, HOUR, 10), admitted(two, HOUR, 10))
            assert sum(found) == 3
            with pytest.raises(RateLimitedError) as caught:
                await two.admit(HOUR)
            assert caught.value.limit == "requests_per_minute"
            assert 0 < caught.value.retry_after <= 20

    asyncio.run(run())


def test_all_subjects_or_none(redis: Redis) -> None:
    """A request refused under one subject's limit is charged to no other; other limits are other buckets."""

    async def run() -> None:
        async with two_processes(redis) as (limiter, _):
            strict, wide = RateLimits(requests_per_minute=1), RateLimits(requests_per_minute=5)
            assert await admitted(limiter, {"key": wide, "model": strict}, 10) == 1
            assert await admitted(limiter, {"key": wide}, 10) == 4
            assert await admitted(limiter, {"key": RateLimits(requests_per_minute=2)}, 10) == 2

    asyncio.run(run())


def test_debts_are_kept(redis: Redis) -> None:
    """Tokens charged after the fact, and a request of many texts, are made up for, however long it takes."""

    async def run() -> None:
        async with two_processes(redis) as (one, two):
            await (await one.admit(HOUR)).finish(tokens=600)
            with pytest.raises(RateLimitedError) as caught:
                await two.admit(HOUR)
            assert caught.value.limit == "tokens_per_minute"
            assert 290 < caught.value.retry_after <= 300
            many = {"b": RateLimits(requests_per_minute=60)}
            assert await admitted(one, many, requests=600) == 1
            with pytest.raises(RateLimitedError) as caught:
                await two.admit(many)
            assert 530 < caught.value.retry_after <= 541

    asyncio.run(run())


def test_both_kinds_of_buckets_say_the_same(redis: Redis) -> None:
    """Over the same requests, Redis and a process of its own tell the same waits, to the time that passed."""
    buckets = [Bucket("a", "requests_per_minute", 30.0), Bucket("a", "tokens_per_minute", 0.5)]
    steps = [
        ({buckets[0]: 40.0}, False),
        ({buckets[0]: 1.0, buckets[1]: 7.0}, False),
        ({buckets[1]: 7.0}, True),
    ]
    steps += [({buckets[1]: -3.0}, True), ({buckets[0]: 1.0, buckets[1]: 0.0}, False)]

    async def run() -> None:
        started, own = time.monotonic(), OwnBuckets()
        async with aclosing(FleetBuckets(redis.url)) as shared:
            for amounts, by_force in steps:
                waits = [await one.take(amounts, by_force=by_force) for one in (shared, own)]
                passed = time.monotonic() - started + 1e-3
                assert waits[0] == pytest.approx(waits[1], abs=passed)
                assert [wait > 0 for wait in waits[0]] == [wait > 0 for wait in waits[1]]

    asyncio.run(run())


def test_redis_forgets_full_buckets(redis: Redis) -> None:
    """Each key goes when its bucket is full again, so a million subjects leave nothing."""

    async def run() -> None:
        async with aclosing(FleetBuckets(redis.url)) as buckets:
            await buckets.take({Bucket("a", "requests_per_minute", 6000.0): 1.0, Bucket("b", "x", 1.0): 2.0})
            client = buckets._script.registered_client
            found = {key.rsplit(b":", 1)[-1]: await client.ttl(key) for key in await client.keys("*")}
            assert 0 <= found[b"a"] <= 1
            assert 110 < found[b"b"] <= 120

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["stopped", "hanging"])
def test_without_redis_each_process_limits_by_itself(
    redis: Redis, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Down or hanging: no error, no lifted limit, one warning each way; once it is back, Redis counts again."""
    monkeypatch.setattr(fleet_limits, "RETRY_SECONDS", 0.0)
    caplog.set_level(logging.WARNING, logger="lorecall.limits")

    async def run() -> None:
        async with two_processes(redis) as (one, two):
            assert await admitted(one, HOUR, 2) == 2
            redis.hang() if fault == "hanging" else redis.stop()
            assert await admitted(one, HOUR, 5) == 3  # its own bucket, not what is left in Redis
            assert await admitted(two, HOUR, 5) == 3
            redis.stop()
            redis.start()  # empty
            assert await admitted(one, HOUR, 5) + await admitted(two, HOUR, 5) == 3

    asyncio.run(run())
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 4
    assert (
        sum("does not answer" in text for text in texts)
        == sum("answers again" in text for text in texts)
        == 2
    )


def test_a_start_without_redis_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Before any request, and without the address, which may hold a password; the start goes on."""
    asyncio.run(RateLimiter(make_buckets("redis://:geheim@127.0.0.1:1/0")).check())
    (text,) = [record.getMessage() for record in caplog.records]
    assert "LORECALL_LIMITS_URL does not answer: ConnectionError" in text
    assert "geheim" not in text


def test_a_redis_that_does_not_answer_is_left_alone(redis: Redis) -> None:
    """After one failure requests no longer wait for it, until it is tried again."""
    now = [0.0]
    buckets = FleetBuckets(redis.url, lambda: now[0])
    asked = []

    async def ask(*_arguments: Any) -> list[bytes]:
        asked.append(now[0])
        raise ConnectionRefusedError

    buckets._script = ask

    async def run() -> None:
        for now[0] in (0.0, 1.0, 4.9, 5.0, 9.9, 10.0):
            await buckets.take({Bucket("a", "requests_per_minute", 60.0): 1.0})

    asyncio.run(run())
    assert asked == [0.0, 5.0, 10.0]


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("localhost:6379", "begins with 'localhost:6379'"),
        ("http://localhost", "possible are redis"),
        ("memcached://localhost", "possible are redis"),
        ("redis://:geheim@localhost:port/0", "cannot be used"),
        ("redis+sentinel://:geheim@localhost:26379", "cannot be used"),
    ],
)
def test_addresses_that_are_none(url: str, complaint: str) -> None:
    """A wrong address is refused at the start, by the setting's name and without its password."""
    with pytest.raises(UsageError, match=complaint) as caught:
        make_buckets(url)
    assert caught.value.param == "LORECALL_LIMITS_URL"
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is optional; who asks for Redis without it is told what to install."""
    monkeypatch.setitem(sys.modules, "limits.storage", None)
    with pytest.raises(UsageError, match="pip install 'lorecall"):
        make_buckets("redis://localhost:6379")
    assert isinstance(make_buckets(""), OwnBuckets)
