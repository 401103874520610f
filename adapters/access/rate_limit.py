"""Rate limits: token buckets for requests and tokens, and a limit on concurrent requests."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lorecall.adapters.core.errors import LorecallError

_CONCURRENT_RETRY_SECONDS = 1.0  # when a running request will end is unknown
_PRUNE_ABOVE = 10_000


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
        requests_per_minute: Requests.
        tokens_per_minute: Tokens, prompts and answers together.
        concurrent: Requests running at once.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for value in (self.requests_per_minute, self.tokens_per_minute, self.concurrent):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"a limit must be a positive number, not {value!r}")


NO_LIMITS = RateLimits()


class _Bucket:
    """A token bucket, filled by `rate` a second up to `size`; late charges may make its level negative."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.rate = per_minute / 60
        self.size = max(per_minute, 1.0)  # a rate under one a minute must still admit a single request
        self.level = self.size
        self._filled_at = now

    def fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self._filled_at) * self.rate)
        self._filled_at = now

    def wait_for(self, amount: float) -> float:
        """Return the seconds until the level is `amount`, or until the bucket is full if it holds less."""
        missing = min(amount, self.size) - self.level
        return max(0.0, missing / self.rate)


class _Subject:
    """The state of one subject's limits."""

    def __init__(self, limits: RateLimits, now: float) -> None:
        self.limits = limits
        self.running = 0
        self.requests = _Bucket(limits.requests_per_minute, now) if limits.requests_per_minute else None
        self.tokens = _Bucket(limits.tokens_per_minute, now) if limits.tokens_per_minute else None

    def buckets(self) -> list[_Bucket]:
        return [bucket for bucket in (self.requests, self.tokens) if bucket is not None]

    def refusals(self, name: str, tokens: int) -> Iterator[RateLimitedError]:
        """Yield an error for each limit that one more request would break."""
        limits = self.limits
        if limits.concurrent is not None and self.running >= limits.concurrent:
            yield RateLimitedError(name, "concurrent", limits.concurrent, _CONCURRENT_RETRY_SECONDS)
        if self.requests is not None and (wait := self.requests.wait_for(1)):
            yield RateLimitedError(name, "requests_per_minute", limits.requests_per_minute or 0, wait)
        if self.tokens is not None and (wait := self.tokens.wait_for(tokens)):
            yield RateLimitedError(name, "tokens_per_minute", limits.tokens_per_minute or 0, wait)


class AdmittedRequest:
    """An admitted request. Call `finish` when it ends, also after an error, or use it as a context manager."""

    def __init__(self, limiter: "RateLimiter", subjects: Sequence[str], tokens: int) -> None:
        self._limiter = limiter
        self._subjects = subjects
        self._charged = tokens
        self._open = True

    def finish(self, tokens: int | None = None) -> None:
        """End the request and charge the difference in tokens; a second call does nothing.

        Args:
            tokens: All tokens that were used; None if the number charged by `admit` was right.
        """
        if self._open:
            self._open = False
            used = self._charged if tokens is None else tokens
            self._limiter._settle(self._subjects, used - self._charged)  # noqa: SLF001  # the two classes work together

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()


class RateLimiter:
    """Admits a request if the limits of all its subjects (a key, an adapter, ...) allow it. Safe for threads.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._subjects: dict[str, _Subject] = {}
        self._prune_above = _PRUNE_ABOVE

    def admit(self, limits: Mapping[str, RateLimits], tokens: int = 0) -> AdmittedRequest:
        """Admit a request and charge it to every subject, or refuse it and charge none.

        Args:
            limits: The present limits by subject; changed limits start with a full bucket.
            tokens: Tokens known in advance, such as the prompt's; `AdmittedRequest.finish` charges the rest.

        Raises:
            RateLimitedError: A limit is reached; of several, the one with the longest wait.
        """
        with self._lock:
            now = self._clock()
            subjects = {name: self._subject(name, wanted, now) for name, wanted in limits.items()}
            refused = [
                error for name, subject in subjects.items() for error in subject.refusals(name, tokens)
            ]
            if refused:
                raise max(refused, key=lambda error: error.retry_after)
            for subject in subjects.values():
                subject.running += 1
                if subject.requests is not None:
                    subject.requests.level -= 1
                if subject.tokens is not None:
                    subject.tokens.level -= tokens
            return AdmittedRequest(self, tuple(subjects), tokens)

    def _subject(self, name: str, limits: RateLimits, now: float) -> _Subject:
        subject = self._subjects.get(name)
        if subject is None or subject.limits != limits:
            if len(self._subjects) >= self._prune_above:
                self._prune(now)
            running = subject.running if subject else 0
            subject = self._subjects[name] = _Subject(limits, now)
            subject.running = running
        for bucket in subject.buckets():
            bucket.fill(now)
        return subject

    def _prune(self, now: float) -> None:
        """Forget subjects with full buckets and no running request: a new one has the same state."""
        for name, subject in list(self._subjects.items()):
            for bucket in subject.buckets():
                bucket.fill(now)
            if not subject.running and all(bucket.level >= bucket.size for bucket in subject.buckets()):
                del self._subjects[name]
        self._prune_above = max(_PRUNE_ABOVE, 2 * len(self._subjects))

    def _settle(self, names: Sequence[str], tokens: int) -> None:
        with self._lock:
            for name in names:
                subject = self._subjects[name]
                subject.running -= 1
                if subject.tokens is not None:
                    subject.tokens.level -= tokens
