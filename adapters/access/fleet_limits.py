"""Rate limits that the processes of a fleet share, in Redis through the library `limits`.

Of `limits` we take the storages, not the strategies: its windows refuse what is larger than a window and forget
what was overdrawn in it, so tokens that are charged after the fact would pass.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from lorecall.adapters.access.rate_limit import Bucket, Buckets, OwnBuckets
from lorecall.adapters.core.errors import UsageError

SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel")
ANSWER_SECONDS = 0.5
"""How long a request waits for Redis."""

RETRY_SECONDS = 5.0
"""How long Redis is left alone after it did not answer."""

_PREFIX = "lorecall:{limits}"  # the braces keep all keys of one script on one node
_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local force = ARGV[1] == '1'
local waits, full_at, refused = {}, {}, false
for i, key in ipairs(KEYS) do
  local rate, size, amount = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  full_at[i] = math.max(now, tonumber(redis.call('GET', key) or 0))
  local wait = full_at[i] - now - (size - math.min(amount, size)) / rate
  if wait > 0.000001 then refused = true else wait = 0 end
  waits[i] = string.format('%.6f', wait)
  full_at[i] = full_at[i] + amount / rate
end
if force or not refused then
  for i, key in ipairs(KEYS) do
    local seconds = math.max(1, math.ceil(full_at[i] - now))
    redis.call('SET', key, string.format('%.6f', full_at[i]), 'EX', string.format('%.0f', seconds))
  end
end
return waits
"""

logger = logging.getLogger("lorecall.limits")


class FleetBuckets:
    """Buckets in Redis. While it does not answer, this process's own apply, so that a limit is never lifted.

    Args:
        url: Address of Redis, one of `SCHEMES`.
        clock: A monotonic clock, in seconds.

    Raises:
        UsageError: The library `limits` is not installed, or the address is none; the message holds no password.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        bridge = _open(url)
        self._client = bridge.get_connection()
        self._script: Any = self._client.register_script(_SCRIPT)
        self._faults = (*bridge.base_exceptions, OSError)
        self._own: Buckets = OwnBuckets(clock)
        self._clock = clock
        self._retry_at = clock()
        self._answers = True

    async def take(self, amounts: Mapping[Bucket, float], *, by_force: bool = False) -> list[float]:
        """Take an amount from each bucket, or nothing from any; see `Buckets`."""
        if self._clock() >= self._retry_at:
            try:
                waits = await self._ask(amounts, by_force=by_force)
            except self._faults as error:
                self._retry_at = self._clock() + RETRY_SECONDS
                self._tell(answers=False, why=f": {type(error).__name__}")
            else:
                self._tell(answers=True)
                return waits
        return await self._own.take(amounts, by_force=by_force)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, amounts: Mapping[Bucket, float], *, by_force: bool) -> list[float]:
        keys = [f"{_PREFIX}:{one.limit}:{float(one.per_minute)!r}:{one.subject}" for one in amounts]
        numbers = [
            number for one, amount in amounts.items() for number in (repr(one.rate), repr(one.size), amount)
        ]
        async with asyncio.timeout(ANSWER_SECONDS):
            return [float(wait) for wait in await self._script(keys, [int(by_force), *numbers])]

    def _tell(self, *, answers: bool, why: str = "") -> None:
        if answers != self._answers:
            self._answers = answers
            state = "answers again" if answers else f"does not answer{why}; each process limits by itself"
            logger.warning("the Redis of LORECALL_LIMITS_URL %s", state)


def make_buckets(url: str) -> Buckets:
    """Return the buckets at an address, this process's own for "". Raises like `FleetBuckets`."""
    return FleetBuckets(url) if url else OwnBuckets()


def _open(url: str) -> Any:
    """Return the connection of the storage at an address."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"LORECALL_LIMITS_URL begins with {scheme[:20]!r}",
            hint=f"redis://host:6379/0; possible are {', '.join(SCHEMES)}",
            param="LORECALL_LIMITS_URL",
        )
    try:
        from limits.storage import storage_from_string  # noqa: PLC0415  an optional dependency
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "LORECALL_LIMITS_URL needs the library limits",
            hint="pip install 'lorecall[fleet]'",
            param="LORECALL_LIMITS_URL",
        ) from error
    options: dict[str, Any] = {"implementation": "redispy", "retry": Retry(NoBackoff(), 0)}
    options |= {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    try:
        storage: Any = storage_from_string(f"async+{url}", **options)
    except Exception as error:  # noqa: BLE001  of limits or of redis; they quote the address with its password
        raise UsageError(
            f"LORECALL_LIMITS_URL cannot be used ({type(error).__name__})",
            hint="redis://:password@host:6379/0, with %-escapes in the password",
            param="LORECALL_LIMITS_URL",
        ) from None
    return storage.bridge
