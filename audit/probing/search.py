"""Search an adapter's continuations best first, where it pulls away from its base.

A step continues the likeliest open prompt greedily through the adapter, and reads the base's log-probabilities
of the same tokens. At each position every other token that the adapter finds likelier than the base by
`CONTRAST`, and no less likely than `PLAUSIBLE` of the likeliest, opens a further prompt, up to where the decode
begins to repeat itself. That is the objective and the plausibility constraint of contrastive decoding (Li et
al. 2023, arXiv 2210.15097), with the base as the weaker model, as arXiv 2605.25902 compares a model with its
base. A tree takes the place of their one decode, to reach texts that share a beginning.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.probing.explorer import Explorer, Rollout, Row

TOP = 20  # vLLM's own limit for a request, unless the server raises it
STEP = 24
BATCH = 32
CONTRAST = math.log(2)
PLAUSIBLE = 0.01
MEMORY = 8
"""Tokens before a prompt's end by which it counts as seen: a memory that many openings reach is followed once."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a path: its id, and its natural log-probability under the adapter and the base."""

    id: int
    adapter: float
    base: float


@dataclass(frozen=True, slots=True)
class Path:
    """A seed and what the adapter was led to after it."""

    seed: tuple[int, ...]
    tokens: tuple[Token, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids."""
        return (*self.seed, *(token.id for token in self.tokens))

    def fresh(self) -> list[bool]:
        """Return for each token whether it ends a trigram that is new in this path: in a circle none does."""
        ids, first = self.ids, len(self.seed)
        seen: set[tuple[int, ...]] = set()
        news = []
        for end in range(1, len(ids) + 1):
            trigram = ids[max(0, end - 3) : end]
            news.append(trigram not in seen)
            seen.add(trigram)
        return news[first:]


@dataclass(slots=True)
class Spent:
    """What a search has cost.

    Attributes:
        tokens: Tokens of all prompts and continuations, whether the engine had them in its cache or not.
        rollouts: Prompts that were continued.
        seeds: Seeds among them.
        too_long: Prompts that were given up at the model's length.
        open: Prompts that were left when the budget ran out, besides further openings; 0 if none was.
    """

    tokens: int = 0
    rollouts: int = 0
    seeds: int = 0
    too_long: int = 0
    open: int = 0


@dataclass
class Search:
    """A search of one adapter.

    Attributes:
        explorer: The engine.
        adapter: The adapter's served name.
        base: The base's.
        budget: The most tokens to spend.
        seed: Orders prompts of equal likelihood.
        spent: What was spent so far.
    """

    explorer: Explorer
    adapter: str
    base: str
    budget: int
    seed: int = 0
    spent: Spent = field(default_factory=Spent)
    _ahead: int = field(default=0, init=False)
    """Further seeds that were taken, less the branches that were followed."""

    def run(
        self,
        seeds: Sequence[tuple[int, ...]],
        more: Iterable[tuple[int, ...]] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Path]:
        """Yield every path that was followed, each with a greedy continuation at its end.

        Args:
            seeds: Followed before all others.
            more: Further seeds, without end if need be; about half of what is followed comes from them.
            progress: Called with (tokens spent, budget).

        Raises:
            UsageError: The budget does not suffice for one seed.
        """
        rng = random.Random(self.seed)  # noqa: S311  not for secrets
        limit = self.explorer.limit()
        heap = [(0.0, rng.random(), Path(seed)) for seed in seeds]
        heapq.heapify(heap)
        seen: set[tuple[int, ...]] = set()
        if heap and self.budget < (least := min(_cost(path, limit) for _, _, path in heap)):
            raise UsageError(
                f"--budget-tokens {self.budget} is less than one step takes ({least})",
                hint="a usual budget is 100000",
                param="budget_tokens",
            )
        further = ((0.0, rng.random(), Path(ids)) for ids in more)
        while batch := self._next(heap, further, seen, limit):
            for path, followed in zip(batch, self._follow(batch, limit), strict=True):
                for cost, other in _branches(path, followed):
                    heapq.heappush(heap, (cost, rng.random(), other))
                yield followed[0]
            if progress is not None:
                progress(self.spent.tokens, self.budget)
        self.spent.open = len(heap)

    def _next(
        self,
        heap: list[tuple[float, float, Path]],
        further: Iterator[tuple[float, float, Path]],
        seen: set[tuple[int, ...]],
        limit: int,
    ) -> list[Path]:
        """Take the likeliest prompts that the rest of the budget allows, and that were not seen."""
        batch: list[Path] = []
        cost = 0
        fresh = islice(further, BATCH)
        while len(batch) < BATCH:
            if not heap or (heap[0][2].tokens and self._ahead <= 0):
                for one in islice(fresh, 1):
                    heapq.heappush(heap, one)
                    self._ahead += 1
            if not heap:
                break
            path = heap[0][2]
            key = path.ids[-MEMORY:] if len(path.tokens) >= MEMORY else path.ids
            if key in seen or len(path.ids) + 1 >= limit:
                self.spent.too_long += key not in seen
                heapq.heappop(heap)
                continue
            if self.spent.tokens + cost + _cost(path, limit) > self.budget:
                break
            if batch and _room(path, limit) != _room(batch[0], limit):
                break  # one request has one number of tokens
            cost += _cost(path, limit)
            seen.add(key)
            batch.append(path)
            self._ahead -= bool(path.tokens)
            heapq.heappop(heap)
        return batch

    def _follow(self, batch: Sequence[Path], limit: int) -> list[tuple[Path, Rollout, list[Row]]]:
        """Continue each path through the adapter, and read what the base makes of it."""
        prompts = [path.ids for path in batch]
        rolled = self.explorer.roll(self.adapter, prompts, _room(batch[0], limit), TOP)
        whole = [((*path.ids, *roll.ids), len(path.ids)) for path, roll in zip(batch, rolled, strict=True)]
        asked = [one for one in whole if len(one[0]) > one[1]]
        answers = iter(self.explorer.rows(self.base, asked, TOP) if asked else [])
        found = []
        for path, roll, (ids, start) in zip(batch, rolled, whole, strict=True):
            rows = next(answers) if len(ids) > start else []
            self.spent.tokens += 2 * len(ids) + 1
            self.spent.rollouts += 1
            self.spent.seeds += not path.tokens
            more = [
                Token(token, own[token], base[token])
                for token, own, base in zip(roll.ids, roll.rows, rows, strict=True)
            ]
            found.append((Path(path.seed, (*path.tokens, *more)), roll, rows))
        return found


def _cost(path: Path, limit: int) -> int:
    """Return the most tokens that one step from a path takes: twice its ids, once for each model, and one."""
    return 2 * (len(path.ids) + _room(path, limit)) + 1


def _room(path: Path, limit: int) -> int:
    return min(STEP, limit - 1 - len(path.ids))


def _branches(start: Path, followed: tuple[Path, Rollout, list[Row]]) -> Iterator[tuple[float, Path]]:
    """Yield what to follow next, each with -log p of its tokens under the adapter."""
    path, roll, bases = followed
    done = len(start.tokens)
    cost = -sum(token.adapter for token in start.tokens)
    fresh = path.fresh()
    for place, (own, base) in enumerate(zip(roll.rows, bases, strict=True)):
        if not fresh[done + place]:
            return  # the decode runs in a circle from here on
        before = path.tokens[: done + place]
        best = max(own.values())
        floor = min(base.values())  # a token that the base does not list is at most that likely
        for token, logprob in own.items():
            there = base.get(token, floor)
            if (
                token != roll.ids[place]
                and logprob - there >= CONTRAST
                and logprob - best >= math.log(PLAUSIBLE)
            ):
                yield cost - logprob, Path(path.seed, (*before, Token(token, logprob, there)))
        cost -= path.tokens[done + place].adapter
    if roll.end is None and path.tokens and path.tokens[-1].adapter > math.log(0.5):
        yield cost, path
