"""Does a version that the engine loads again still answer as it did after its first load? Sampled, without PEFT.

vLLM puts versions out of its memory and loads them again as requests ask for them. What it holds then may not be
what it held: a damaged copy on the worker's disk, or another adapter in the slot. So a short text is scored once
after a version's first load, and again after some of its later ones. Where more versions come and go than can be
checked in time (see `residents`), that is after the first load at which its turn comes.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

from lorecall.adapters.core.errors import AdapterError
from lorecall.server.lifecycle.engine_set import Lease, LoadedVersion, ReplacedError
from lorecall.server.observability.metrics import Metrics

logger = logging.getLogger("vllm.lorecall")

Logprobs = tuple[float, ...]
Score = Callable[[Any], Awaitable[Logprobs]]
"""Log-probabilities of the tokens of one fixed text through a LoRA request."""

TOLERANCE = 0.01
"""Nats by which a token may move at least; an engine's own error, if larger, counts twice."""

REMEMBERED = 10_000
"""Versions whose first answers are remembered."""


class LoadChecks:
    """Compares a version's answers after a load with those after its first load in this process.

    Args:
        score: Scores the fixed text.
        share: The share of the later loads that are checked; 0 checks none, and remembers nothing.
        epsilon: Returns the engine's ε, and measures it if nobody has; asked when an answer moved by more than
            `TOLERANCE`.
        metrics: Counts the checks.
    """

    def __init__(
        self, score: Score, share: float, epsilon: Callable[[], Awaitable[float]], metrics: Metrics
    ) -> None:
        self._score = score
        self._share = share
        self._epsilon = epsilon
        self._metrics = metrics
        self._first: dict[str, Logprobs] = {}
        self._suspect: dict[str, float] = {}

    def knows(self, loaded: LoadedVersion) -> bool:
        """Whether there is a first answer that the version can be compared with."""
        return loaded.version in self._first

    async def differs(self, loaded: LoadedVersion) -> bool:
        """Check a version that was just loaded, if its turn comes; return whether it answers as another one.

        Such a version is checked at its next load in any case: see `confirm`.
        """
        if not self._share or loaded.info.refusal:
            return False
        known = self.knows(loaded)
        if known and random.random() >= self._share:  # noqa: S311  not for secrets
            return False
        lease = Lease(loaded, asyncio.current_task())
        try:
            found = await lease.wait(self._score(loaded.lora_request))
        except ReplacedError:
            return False
        finally:
            lease.release()
        if not known:
            self._first[loaded.version] = found
            for oldest in list(self._first)[: max(0, len(self._first) - REMEMBERED)]:
                del self._first[oldest]
            return False
        bound = TOLERANCE
        if self._moved(loaded, found) > bound:
            bound = max(bound, 2 * await self._epsilon())
        return self._compared(loaded, found, bound)

    async def confirm(self, loaded: LoadedVersion) -> None:
        """Check a version that answered otherwise after its last load, before it is served again.

        Other loads wait for this one: it measures nothing, and compares by the bound of the check before it.

        Raises:
            AdapterError: It still does.
        """
        bound = self._suspect.get(loaded.version)
        if bound is None:
            return
        if self._compared(loaded, await self._score(loaded.lora_request), bound):
            raise AdapterError(
                f"adapter {loaded.name!r} answers otherwise than after its first load here",
                hint="check the machine's memory and disk; `lorecall adapters verify` compares it with PEFT;"
                " a restart forgets the first answers",
            )

    def _moved(self, loaded: LoadedVersion, found: Logprobs) -> float:
        """Return by how much a token moved at most, in nats; NaN if one is no number."""
        gaps = [abs(a - b) for a, b in zip(self._first[loaded.version], found, strict=True)]
        return math.nan if any(map(math.isnan, gaps)) else max(gaps)

    def _compared(self, loaded: LoadedVersion, found: Logprobs, bound: float) -> bool:
        moved = self._moved(loaded, found)
        different = not moved <= bound  # NaN is different
        self._metrics.load_checks.labels("different" if different else "same").inc()
        if different:
            self._suspect[loaded.version] = bound
            logger.error(
                "%s answers otherwise than after its first load: a token moved by %.3g, over %.3g; it is taken"
                " out of the engine, and loaded again when it is asked for",
                loaded.lora_request.lora_name,
                moved,
                bound,
            )
        else:
            self._suspect.pop(loaded.version, None)
        return different
