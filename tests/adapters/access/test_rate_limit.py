"""Rate limits hold exactly, by an injected clock."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.access import rate_limit
from lorecall.adapters.access.rate_limit import NO_LIMITS, RateLimitedError, RateLimiter, RateLimits


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


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(clock)


def test_requests_come_back_at_their_rate(limiter: RateLimiter, clock: Clock) -> None:
    """Sixty a minute: sixty at once, then one a second; the error says how long to wait, and that is enough."""
    limits = {"key:a": RateLimits(requests_per_minute=60)}
    for _ in range(60):
        limiter.admit(limits).finish()
    for _ in range(3):
        with pytest.raises(RateLimitedError) as caught:
            limiter.admit(limits)
        assert (caught.value.limit, caught.value.subject) == ("requests_per_minute", "key:a")
        assert caught.value.status == 429
        assert caught.value.retry_after == pytest.approx(1.0)
        clock.now += caught.value.retry_after
        limiter.admit(limits).finish()


def test_less_than_one_a_minute(limiter: RateLimiter, clock: Clock) -> None:
    """Half a request a minute is one every two minutes, not none."""
    limits = {"a": RateLimits(requests_per_minute=0.5)}
    limiter.admit(limits)
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit(limits)
    assert caught.value.retry_after == pytest.approx(120)
    clock.now += 120
    limiter.admit(limits)


def test_concurrency(limiter: RateLimiter) -> None:
    """Two at once: a third waits until one has finished; finishing twice frees one place."""
    limits = {"a": RateLimits(concurrent=2)}
    first = limiter.admit(limits)
    with limiter.admit(limits):
        with pytest.raises(RateLimitedError) as caught:
            limiter.admit(limits)
        assert caught.value.limit == "concurrent"
        assert caught.value.retry_after > 0
    first.finish()
    first.finish()
    limiter.admit(limits)
    limiter.admit(limits)
    with pytest.raises(RateLimitedError):
        limiter.admit(limits)


def test_tokens_are_settled_at_the_end(limiter: RateLimiter, clock: Clock) -> None:
    """The prompt is charged at once, the answer at the end; a negative level delays the next request."""
    limits = {"a": RateLimits(tokens_per_minute=600)}
    admission = limiter.admit(limits, tokens=100)
    admission.finish(tokens=700)
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit(limits)
    assert caught.value.limit == "tokens_per_minute"
    assert caught.value.retry_after == pytest.approx(10)  # 100 over, at 10 a second
    clock.now += 10
    limiter.admit(limits)


def test_unused_tokens_are_given_back(limiter: RateLimiter) -> None:
    """Tokens that were charged but not used are given back."""
    limits = {"a": RateLimits(tokens_per_minute=600)}
    limiter.admit(limits, tokens=600).finish(tokens=10)
    limiter.admit(limits, tokens=590)
    with pytest.raises(RateLimitedError):
        limiter.admit(limits, tokens=1)


def test_request_larger_than_the_bucket(limiter: RateLimiter, clock: Clock) -> None:
    """A prompt over a minute's tokens is admitted when the bucket is full; the requests after it wait longer."""
    limits = {"a": RateLimits(tokens_per_minute=60)}
    limiter.admit(limits, tokens=90)
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit(limits, tokens=90)
    assert caught.value.retry_after == pytest.approx(90)
    clock.now += 90
    limiter.admit(limits, tokens=90)


def test_all_subjects_or_none(limiter: RateLimiter) -> None:
    """A request refused under one subject's limit is charged to no other."""
    key, adapter = RateLimits(requests_per_minute=5), RateLimits(requests_per_minute=1)
    limiter.admit({"key": key, "adapter": adapter}).finish()
    for _ in range(10):
        with pytest.raises(RateLimitedError) as caught:
            limiter.admit({"key": key, "adapter": adapter})
        assert caught.value.subject == "adapter"
    for _ in range(4):
        limiter.admit({"key": key})
    with pytest.raises(RateLimitedError):
        limiter.admit({"key": key})


def test_longest_wait_is_told(limiter: RateLimiter) -> None:
    """Of several limits the one with the longest wait is named, so that a client waits once."""
    slow, fast = RateLimits(requests_per_minute=1), RateLimits(requests_per_minute=2)
    limiter.admit({"slow": slow, "fast": fast})
    limiter.admit({"fast": fast})
    with pytest.raises(RateLimitedError) as caught:
        limiter.admit({"fast": fast, "slow": slow})
    assert caught.value.subject == "slow"
    assert caught.value.retry_after == pytest.approx(60)


def test_no_limits_are_none(limiter: RateLimiter) -> None:
    """Without limits everything is admitted, and still counted."""
    admissions = [limiter.admit({"a": NO_LIMITS}, tokens=10**9) for _ in range(100)]
    with pytest.raises(RateLimitedError):
        limiter.admit({"a": RateLimits(concurrent=100)})
    for admission in admissions:
        admission.finish()
    limiter.admit({"a": RateLimits(concurrent=1)})


def test_changed_limits_take_effect(limiter: RateLimiter) -> None:
    """New limits hold from the next request on; what is running still counts."""
    first = limiter.admit({"a": RateLimits(concurrent=1)})
    limiter.admit({"a": RateLimits(concurrent=2)})
    with pytest.raises(RateLimitedError):
        limiter.admit({"a": RateLimits(concurrent=2)})
    first.finish()
    limiter.admit({"a": RateLimits(concurrent=2)})


def test_memory_is_bounded(limiter: RateLimiter, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subjects with full buckets and no running request are forgotten, the others are not."""
    monkeypatch.setattr(rate_limit, "_PRUNE_ABOVE", 100)
    limiter._prune_above = 100
    running = limiter.admit({"running": RateLimits(concurrent=1)})
    for number in range(1000):
        limiter.admit({f"subject-{number}": RateLimits(requests_per_minute=60)}).finish()
        clock.now += 1
        assert len(limiter._subjects) <= 102
    with pytest.raises(RateLimitedError):
        limiter.admit({"running": RateLimits(concurrent=1)})
    running.finish()


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_positive(value: float) -> None:
    """A limit must be a finite number over 0."""
    with pytest.raises(ValueError, match="positive"):
        RateLimits(requests_per_minute=value)


def test_threads_do_not_overspend(limiter: RateLimiter) -> None:
    """Eight threads that try two thousand times get exactly the thousand there are."""
    limits = {"a": RateLimits(requests_per_minute=1000)}

    def spend(_: int) -> int:
        admitted = 0
        for _ in range(250):
            try:
                limiter.admit(limits).finish()
            except RateLimitedError:
                continue
            admitted += 1
        return admitted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(spend, range(8))) == 1000


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
    limiter = RateLimiter(clock)
    limits = {"a": RateLimits(requests_per_minute=requests, tokens_per_minute=tokens)}
    start = clock.now
    for admitted, (pause, prompt, answer) in enumerate(steps, 1):
        clock.now += pause
        try:
            admission = limiter.admit(limits, tokens=prompt)
        except RateLimitedError as error:
            clock.now += error.retry_after + 1e-6
            admission = limiter.admit(limits, tokens=prompt)
        admission.finish(tokens=prompt + answer)
        assert admitted <= requests * (1 + (clock.now - start) / 60) + 1e-3
