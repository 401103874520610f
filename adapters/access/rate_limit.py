"""Rate limits: token buckets for requests and tokens, and a limit on concurrent requests."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from lorecall.adapters.core.errors import LorecallError

_CONCURRENT_RETRY_SECONDS = 1.0  # when a running request will end is unknown
_PRUNE_ABOVE = 10_000
_ROUNDING_SECONDS = 1e-6


class RateLimitedError(LorecallError):
    """A limit is reached.

    Attributes:
        retry_after: Seconds until a retry may succeed.
        limit: Which limit: "requests_per_minute", "tokens_per_minute" or "concurrent".
        subject: Whose limit.
    """

    status = 429
    code = "rate_limited"

    def __init__(self, subject: str, limit: str, allowed: float, retry_after: float) -> None:
        super().__init__(
            f"{subject} is over its limit of {allowed:g} {limit.replace('_', ' ')}",
            hint=f"try again in {retry_after:.1f} s",
        )
        self.retry_after = retry_after
        self.limit = limit
        self.subject = subject


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits of one subject; None is no limit. A bucket holds the amount of one minute, so bursts up to it pass.

    Attributes:
        requests_per_minute: Requests; one that holds many texts counts as so many.
        tokens_per_minute: Tokens, prompts and answers together.
        concurrent: Requests running at once, in this process.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for value in (self.requests_per_minute, self.tokens_per_minute, self.concurrent):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"a limit must be a positive number, not {value!r}")


NO_LIMITS = RateLimits()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket by name: filled at a rate, up to the amount of one minute.

    Its whole state is the time at which it is full again. That may be more than a minute away: what is taken
    after the fact, or in one piece larger than the bucket, leaves it in debt.

    Attributes:
        subject: Whose limit it is.
        limit: "requests_per_minute" or "tokens_per_minute".
        per_minute: The limit; a changed one is another bucket, which starts full.
    """

    subject: str
    limit: str
    per_minute: float

    @property
    def rate(self) -> float:
        """What flows in, per second."""
        return self.per_minute / 60

    @property
    def size(self) -> float:
        """What it holds; a rate under one a minute must still admit a single request."""
        return max(self.per_minute, 1.0)

    def wait(self, until_full: float, amount: float) -> float:
        """Return the seconds until an amount is there, or until the bucket is full if it holds less.

        Args:
            until_full: Seconds until it is full.
            amount: What is wanted.
        """
        seconds = until_full - (self.size - min(amount, self.size)) / self.rate
        return seconds if seconds > _ROUNDING_SECONDS else 0.0


class Buckets(Protocol):
    """Keeps the state of buckets."""

    async def take(self, amounts: Mapping[Bucket, float], *, by_force: bool = False) -> list[float]:
        """Take an amount from each bucket, or nothing from any if one has too little.

        Args:
            amounts: What to take; less than nothing gives back.
            by_force: Take it even where it is not there.

        Returns:
            The seconds to wait for each; all 0 if everything was taken.
        """

    async def aclose(self) -> None:
        """Close the connections, if there are any."""


class OwnBuckets:
    """The buckets of this process alone.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[Bucket, float] = {}
        self._prune_above = _PRUNE_ABOVE

    async def take(self, amounts: Mapping[Bucket, float], *, by_force: bool = False) -> list[float]:
        """Take an amount from each bucket, or nothing from any; see `Buckets`."""
        now = self._clock()
        until_full = {bucket: max(0.0, self._full_at.get(bucket, now) - now) for bucket in amounts}
        waits = [bucket.wait(until_full[bucket], amount) for bucket, amount in amounts.items()]
        if by_force or not any(waits):
            for bucket, amount in amounts.items():
                self._full_at[bucket] = now + until_full[bucket] + amount / bucket.rate
            if len(self._full_at) > self._prune_above:
                self._prune(now)
        return waits

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    def _prune(self, now: float) -> None:
        """Forget full buckets: one that is not known is full."""
        self._full_at = {bucket: at for bucket, at in self._full_at.items() if at > now}
        self._prune_above = max(_PRUNE_ABOVE, 2 * len(self._full_at))


class AdmittedRequest:
    """An admitted request. Call `finish` when it ends, also after an error, or use it as a context manager."""

    def __init__(self, limiter: "RateLimiter", limits: Mapping[str, RateLimits], tokens: int) -> None:
        self._limiter = limiter
        self._limits = dict(limits)
        self._charged = tokens
        self._open = True

    async def finish(self, tokens: int | None = None) -> None:
        """End the request and charge the difference in tokens; a second call does nothing.

        Args:
            tokens: All tokens that were used; None if the number charged by `admit` was right.
        """
        if self._open:
            self._open = False
            used = self._charged if tokens is None else tokens
            await self._limiter.settle(self._limits, used - self._charged)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.finish()


class RateLimiter:
    """Admits a request if the limits of all its subjects (a key, an adapter, ...) allow it. For one event loop.

    Args:
        buckets: The buckets; by default this process's own. Concurrent requests are counted by process always.
    """

    def __init__(self, buckets: Buckets | None = None) -> None:
        self._buckets = buckets or OwnBuckets()
        self._running: Counter[str] = Counter()

    async def check(self) -> None:
        """Ask the buckets for nothing: shared ones that do not answer are in the log from the start."""
        await self._buckets.take({})

    async def aclose(self) -> None:
        """Close the buckets' connections."""
        await self._buckets.aclose()

    async def admit(
        self, limits: Mapping[str, RateLimits], *, requests: int = 1, tokens: int = 0
    ) -> AdmittedRequest:
        """Admit a request and charge it to every subject, or refuse it and charge none.

        Args:
            limits: The present limits by subject; changed limits start with a full bucket.
            requests: How many requests it counts as. One that counts for more than a minute's is admitted by a
                full bucket, and those after it wait until all of it is made up for.
            tokens: Tokens known in advance; `AdmittedRequest.finish` charges the rest.

        Raises:
            RateLimitedError: A limit is reached; of several rates, the one with the longest wait.
        """
        for subject, one in limits.items():
            if one.concurrent is not None and self._running[subject] >= one.concurrent:
                raise RateLimitedError(subject, "concurrent", one.concurrent, _CONCURRENT_RETRY_SECONDS)
        self._running.update(limits.keys())  # before the buckets are asked: others come meanwhile
        try:
            await self._take(limits, requests, tokens)
        except BaseException:
            self._leave(limits)
            raise
        return AdmittedRequest(self, limits, tokens)

    async def _take(self, limits: Mapping[str, RateLimits], requests: int, tokens: int) -> None:
        amounts = buckets_of(limits, requests, tokens)
        waits = await self._buckets.take(amounts) if amounts else []
        wait, bucket = max(zip(waits, amounts, strict=True), key=lambda pair: pair[0], default=(0.0, None))
        if wait and bucket is not None:
            raise RateLimitedError(bucket.subject, bucket.limit, bucket.per_minute, wait)

    async def settle(self, limits: Mapping[str, RateLimits], tokens: int) -> None:
        """End a request that `admit` admitted, and charge more tokens; for `AdmittedRequest`."""
        self._leave(limits)
        amounts = buckets_of(limits, 0, tokens)
        if tokens and amounts:
            await self._buckets.take(amounts, by_force=True)

    def _leave(self, limits: Mapping[str, RateLimits]) -> None:
        self._running.subtract(limits.keys())
        for subject in limits:
            if not self._running[subject]:
                del self._running[subject]


def buckets_of(limits: Mapping[str, RateLimits], requests: int, tokens: int) -> dict[Bucket, float]:
    """Return what a request takes from which buckets; 0 requests take none."""
    found: dict[Bucket, float] = {}
    for subject, one in limits.items():
        if requests and one.requests_per_minute is not None:
            found[Bucket(subject, "requests_per_minute", one.requests_per_minute)] = requests
        if one.tokens_per_minute is not None:
            found[Bucket(subject, "tokens_per_minute", one.tokens_per_minute)] = tokens
    return found
