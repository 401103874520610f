"""Rate limits hold exactly, by an injected clock."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.access import rate_limit
from lorecall.adapters.access.rate_limit import (
    NO_LIMITS,
    AdmittedRequest,
    OwnBuckets,
    RateLimitedError,
    RateLimiter,
    RateLimits,
)


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time now."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Limiter(RateLimiter):
    """A limiter for tests: each call runs to its end."""

    def __init__(self, clock: Clock) -> None:
        self.buckets = OwnBuckets(clock)
        super().__init__(self.buckets)

    def ask(self, limits: Mapping[str, RateLimits], requests: int = 1, tokens: int = 0) -> AdmittedRequest:
        """Admit a request."""
        return asyncio.run(self.admit(limits, requests=requests, tokens=tokens))


def finish(admission: AdmittedRequest, tokens: int | None = None) -> None:
    """End a request."""
    asyncio.run(admission.finish(tokens))


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def test_requests_come_back_at_their_rate(limiter: Limiter, clock: Clock) -> None:
    """Sixty a minute: sixty at once, then one a second; the error says how long to wait, and that is enough."""
    limits = {"key:a": RateLimits(requests_per_minute=60)}
    for _ in range(60):
        finish(limiter.ask(limits))
    for _ in range(3):
        with pytest.raises(RateLimitedError) as caught:
            limiter.ask(limits)
        assert (caught.value.limit, caught.value.subject) == ("requests_per_minute", "key:a")
        assert caught.value.status == 429
        assert caught.value.retry_after == pytest.approx(1.0)
        clock.now += caught.value.retry_after
        finish(limiter.ask(limits))


def test_less_than_one_a_minute(limiter: Limiter, clock: Clock) -> None:
    """Half a request a minute is one every two minutes, not none."""
    limits = {"a": RateLimits(requests_per_minute=0.5)}
    limiter.ask(limits)
    with pytest.raises(RateLimitedError) as caught:
        limiter.ask(limits)
    assert caught.value.retry_after == pytest.approx(120)
    clock.now += 120
    limiter.ask(limits)


def test_concurrency(limiter: Limiter) -> None:
    """Two at once: a third waits until one has finished; finishing twice frees one place."""
    limits = {"a": RateLimits(concurrent=2)}
    first = limiter.ask(limits)
    second = limiter.ask(limits)
    with pytest.raises(RateLimitedError) as caught:
        limiter.ask(limits)
    assert caught.value.limit == "concurrent"
    assert caught.value.retry_after > 0
    finish(second)
    finish(first)
    finish(first)
    limiter.ask(limits)
    limiter.ask(limits)
    with pytest.raises(RateLimitedError):
        limiter.ask(limits)


def test_tokens_are_settled_at_the_end(limiter: Limiter, clock: Clock) -> None:
    """The prompt is charged at once, the answer at the end; a negative level delays the next request."""
    limits = {"a": RateLimits(tokens_per_minute=600)}
    admission = limiter.ask(limits, tokens=100)
    finish(admission, tokens=700)
    with pytest.raises(RateLimitedError) as caught:
        limiter.ask(limits)
    assert caught.value.limit == "tokens_per_minute"
    assert caught.value.retry_after == pytest.approx(10)  # 100 over, at 10 a second
    clock.now += 10
    limiter.ask(limits)


def test_unused_tokens_are_given_back(limiter: Limiter) -> None:
    """Tokens that were charged but not used are given back."""
    limits = {"a": RateLimits(tokens_per_minute=600)}
    finish(limiter.ask(limits, tokens=600), tokens=10)
    limiter.ask(limits, tokens=590)
    with pytest.raises(RateLimitedError):
        limiter.ask(limits, tokens=1)


def test_request_larger_than_the_bucket(limiter: Limiter, clock: Clock) -> None:
    """A prompt over a minute's tokens is admitted when the bucket is full; the requests after it wait longer."""
    limits = {"a": RateLimits(tokens_per_minute=60)}
    limiter.ask(limits, tokens=90)
    with pytest.raises(RateLimitedError) as caught:
        limiter.ask(limits, tokens=90)
    assert caught.value.retry_after == pytest.approx(90)
    clock.now += 90
    limiter.ask(limits, tokens=90)


def test_all_subjects_or_none(limiter: Limiter) -> None:
    """A request refused under one subject's limit is charged to no other."""
    key, adapter = RateLimits(requests_per_minute=5), RateLimits(requests_per_minute=1)
    finish(limiter.ask({"key": key, "adapter": adapter}))
    for _ in range(10):
        with pytest.raises(RateLimitedError) as caught:
            limiter.ask({"key": key, "adapter": adapter})
        assert caught.value.subject == "adapter"
    for _ in range(4):
        limiter.ask({"key": key})
    with pytest.raises(RateLimitedError):
        limiter.ask({"key": key})


def test_longest_wait_is_told(limiter: Limiter) -> None:
    """Of several limits the one with the longest wait is named, so that a client waits once."""
    slow, fast = RateLimits(requests_per_minute=1), RateLimits(requests_per_minute=2)
    limiter.ask({"slow": slow, "fast": fast})
    limiter.ask({"fast": fast})
    with pytest.raises(RateLimitedError) as caught:
        limiter.ask({"fast": fast, "slow": slow})
    assert caught.value.subject == "slow"
    assert caught.value.retry_after == pytest.approx(60)


def test_no_limits_are_none(limiter: Limiter) -> None:
    """Without limits everything is admitted, and still counted."""
    admissions = [limiter.ask({"a": NO_LIMITS}, tokens=10**9) for _ in range(100)]
    with pytest.raises(RateLimitedError):
        limiter.ask({"a": RateLimits(concurrent=100)})
    for admission in admissions:
        finish(admission)
    limiter.ask({"a": RateLimits(concurrent=1)})


def test_changed_limits_take_effect(limiter: Limiter) -> None:
    """New limits hold from the next request on; what is running still counts."""
    first = limiter.ask({"a": RateLimits(concurrent=1)})
    limiter.ask({"a": RateLimits(concurrent=2)})
    with pytest.raises(RateLimitedError):
        limiter.ask({"a": RateLimits(concurrent=2)})
    finish(first)
    limiter.ask({"a": RateLimits(concurrent=2)})


def test_memory_is_bounded(limiter: Limiter, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subjects with full buckets and no running request are forgotten, the others are not."""
    monkeypatch.setattr(rate_limit, "_PRUNE_ABOVE", 100)
    limiter.buckets._prune_above = 100
    running = limiter.ask({"running": RateLimits(concurrent=1)})
    for number in range(1000):
        finish(limiter.ask({f"subject-{number}": RateLimits(requests_per_minute=60)}))
        clock.now += 1
        assert len(limiter.buckets._full_at) <= 101
    assert set(limiter._running) == {"running"}
    with pytest.raises(RateLimitedError):
        limiter.ask({"running": RateLimits(concurrent=1)})
    finish(running)
    assert not limiter._running


def test_more_subjects_than_are_remembered(limiter: Limiter, clock: Clock) -> None:
    """With eleven thousand keys and models, each request ends and is charged as if it were alone."""
    both = RateLimits(requests_per_minute=60, tokens_per_minute=600)

    async def run() -> None:
        running = [await limiter.admit({f"key-{n}": both, f"model-{n}": both}) for n in range(5500)]
        clock.now += 3600  # their buckets are full again while they run
        for n in range(5500, 11_000):
            await (await limiter.admit({f"key-{n}": both, f"model-{n}": both})).finish()
        for one in running:
            await one.finish(700)

    asyncio.run(run())
    for n in range(0, 5500, 500):
        for whose in ("key", "model"):
            with pytest.raises(RateLimitedError) as caught:
                limiter.ask({f"{whose}-{n}": both})
            assert caught.value.limit == "tokens_per_minute"
    assert not limiter._running


@pytest.mark.parametrize("others", [0, 1])
def test_subjects_without_limits_are_not_lost(limiter: Limiter, others: int) -> None:
    """Whatever number of subjects there is when one more comes, each request finds its own at its end."""

    async def run() -> None:
        for n in range(others):
            await (await limiter.admit({f"other-{n}": NO_LIMITS})).finish()
        for n in range(11_000):
            await (await limiter.admit({f"key-{n}": NO_LIMITS, f"model-{n}": NO_LIMITS})).finish()

    asyncio.run(run())
    assert not limiter._running


def test_a_request_of_many_texts_counts_as_many(limiter: Limiter, clock: Clock) -> None:
    """Ninety texts at sixty a minute pass at once, and cost ninety seconds; half of that is not enough."""
    limits = {"a": RateLimits(requests_per_minute=60)}
    finish(limiter.ask(limits, requests=90))
    for wait in (31, 30):
        with pytest.raises(RateLimitedError) as caught:
            limiter.ask(limits)
        assert caught.value.retry_after == pytest.approx(wait)
        clock.now += 1
    clock.now += 29
    limiter.ask(limits)


def test_a_refused_request_leaves_no_trace(limiter: Limiter, clock: Clock) -> None:
    """What is refused is not counted as running, and what is admitted is."""
    limits = {"a": RateLimits(requests_per_minute=1, concurrent=2)}
    limiter.ask(limits)
    for _ in range(5):
        with pytest.raises(RateLimitedError) as caught:
            limiter.ask(limits)
        assert caught.value.limit == "requests_per_minute"
    clock.now += 60
    limiter.ask(limits)
    clock.now += 60
    with pytest.raises(RateLimitedError) as caught:
        limiter.ask(limits)
    assert caught.value.limit == "concurrent"


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_positive(value: float) -> None:
    """A limit must be a finite number over 0."""
    with pytest.raises(ValueError, match="positive"):
        RateLimits(requests_per_minute=value)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50), st.integers(0, 200)), max_size=60),
    st.integers(1, 20),
    st.integers(10, 500),
)
def test_no_window_exceeds_the_limits(
    steps: list[tuple[float, int, int]], requests: int, tokens: int
) -> None:
    """At most rate times time plus one bucket of requests pass; waiting `retry_after` always suffices."""
    clock = Clock()
    limiter = Limiter(clock)
    limits = {"a": RateLimits(requests_per_minute=requests, tokens_per_minute=tokens)}
    start = clock.now
    for admitted, (pause, prompt, answer) in enumerate(steps, 1):
        clock.now += pause
        try:
            admission = limiter.ask(limits, tokens=prompt)
        except RateLimitedError as error:
            clock.now += error.retry_after + 1e-6
            admission = limiter.ask(limits, tokens=prompt)
        finish(admission, tokens=prompt + answer)
        assert admitted <= requests * (1 + (clock.now - start) / 60) + 1e-3
