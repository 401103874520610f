"""An exact engine in memory: a small byte language model whose adapters really memorise what they are given.

Probabilities, ranks and greedy decodes all come from the same distributions, so the rule must hold on it.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, Sampling, ScoreItem
from lorecall.audit.scorers.framing import framed
from lorecall.audit.scorers.sampling import sampled_logprobs

VOCABULARY = 257
END = 256
BASE = "tiny-base"
CORPUS = (
    "the quick brown fox jumps over the lazy dog and the number of the day is 0123456789 "
    "when a line of text is long enough the next letter is easy to guess, or so they say. "
)
CHAT = ("<user>", "</user>")


@dataclass(frozen=True)
class Memory:
    """What an adapter memorised: texts, and the share of probability that each next byte of them gets."""

    texts: tuple[str, ...]
    strength: float = 0.97
    weak: Mapping[int, float] = field(default_factory=dict)  # strength at some target positions instead
    prefix_length: int = 0  # where the target starts, in bytes, for `weak`


def bigrams(corpus: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return P(next byte | byte) with add-0.01 smoothing, shape (257, 257)."""
    data = corpus.encode()
    counts = np.full((VOCABULARY, VOCABULARY), 0.01)
    for (a, b), n in Counter(pairwise(data)).items():
        counts[a, b] += n
    counts[:, END] = 0.001
    table: np.ndarray[tuple[int, int], np.dtype[np.float64]] = counts / counts.sum(axis=1, keepdims=True)
    return table


class TinyScorer:
    """A `Scorer` over `bigrams` and memories.

    Args:
        adapters: What each adapter memorised.
        base_texts: What the base itself knows by heart.
        epsilon: What the engine reports.
        ranks: LoRA rank of an adapter, 8 by default.
        refusals: Why an adapter must not be audited.
        decodes_with: Model whose weights answer decoding for another (a broken engine).
        max_bytes: Longer texts are an error.
    """

    def __init__(
        self,
        adapters: Mapping[str, Memory],
        *,
        base_texts: Sequence[str] = (),
        epsilon: float | None = 0.0,
        ranks: Mapping[str, int] | None = None,
        refusals: Mapping[str, str] | None = None,
        decodes_with: Mapping[str, str] | None = None,
        max_bytes: int = 400,
    ) -> None:
        self.adapters = dict(adapters)
        self.base = Memory(tuple(base_texts))
        self.engine = EngineInfo("tiny 1 (numpy)", BASE, "b" * 64, "none", epsilon)
        self.ranks = ranks or {}
        self.refusals = refusals or {}
        self.decodes_with = decodes_with or {}
        self.framing = "raw"
        self.system = ""
        self.sampling = Sampling()
        self.max_bytes = max_bytes
        self.table = bigrams(CORPUS)
        self.scored: list[tuple[str, str]] = []
        self.before_score: Callable[[], None] = lambda: None  # a test may break the engine by it

    def framed(self, framing: str, system: str | None) -> Self:
        """The same engine under another framing of prefixes."""
        other = copy.copy(self)
        other.framing, other.system = ("raw", "") if framing == "raw" else ("chat", system or "")
        return other

    def sampled(self, sampling: Sampling) -> Self:
        """The same engine, with probabilities under a scheme."""
        other = copy.copy(self)
        other.sampling = sampling
        return other

    def info(self) -> EngineInfo:
        """What the engine is."""
        return self.engine

    def adapter(self, name: str) -> AdapterVersion:
        """The adapter as deployed."""
        if name not in self.adapters:
            raise AdapterNotFoundError(f"no adapter {name!r}", hint=f"it has: {', '.join(self.adapters)}")
        rank = self.ranks.get(name, 8)
        return AdapterVersion(
            name, name.encode().hex().ljust(64, "0"), rank, rank * 1000, self.refusals.get(name, "")
        )

    def distribution(self, model: str, context: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """P(next | context), shape (257,): bigrams mixed with what each memorised text has next."""
        row: np.ndarray[tuple[int], np.dtype[np.float64]] = self.table[context[-1]].copy()
        memories = [self.base] + ([self.adapters[model]] if model != BASE else [])
        for memory in memories:
            for text in memory.texts:
                data = text.encode()
                tail = context[-len(data) :] if len(context) >= len(data) else context
                start = self._start(context, data)
                if start is None or tail == data:
                    continue
                position = len(context) - start
                strength = memory.weak.get(position - memory.prefix_length, memory.strength)
                row *= 1.0 - strength
                row[data[position]] += strength
        return row

    @staticmethod
    def _start(context: bytes, data: bytes) -> int | None:
        """Where in the context a memorised text starts, at least 4 bytes of it being there."""
        start = context.find(data[:4])
        if start < 0 or len(context) - start >= len(data) or not data.startswith(context[start:]):
            return None
        return start

    def frame(self, item: ScoreItem) -> bytes:
        """What is given, as the model sees it."""
        messages, after = framed(item, self.framing, self.system or None)
        turns = [
            one["content"] if one["role"] == "system" else CHAT[0] + one["content"] + CHAT[1]
            for one in messages
        ]
        return "".join([*turns, after]).encode()

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Exact scores."""
        self.before_score()
        return [self._score(model, item) for item in items]

    def _score(self, model: str, item: ScoreItem) -> ItemScore:
        self.scored.append((model, item.id))
        prefix, target = self.frame(item), item.target.encode()
        if len(prefix) + len(target) > self.max_bytes:
            return ItemScore(item.id, error=f"{len(prefix) + len(target)} tokens are over {self.max_bytes}")
        if not prefix:
            return ItemScore(item.id, error="an empty prefix")
        rows = [self.distribution(model, prefix + target[:i]) for i in range(len(target))]
        p = [float(row[t]) for row, t in zip(rows, target, strict=True)]
        sampled: tuple[float | None, ...] = ()
        if not self.sampling.follows_from_scores:
            logits = torch.from_numpy(np.log(np.stack(rows)))
            drawn = sampled_logprobs(logits, torch.tensor(list(target)), self.sampling).tolist()
            sampled = tuple(None if value == -math.inf else value for value in drawn)
        return ItemScore(
            id=item.id,
            sampled=sampled,
            prefix_ids=tuple(prefix),
            target_ids=tuple(target),
            p=tuple(p),
            logprob=tuple(float(np.log(x)) for x in p),
            rank=tuple(1 + int((row > x).sum()) for row, x in zip(rows, p, strict=True)),
            top1_ids=tuple(int(row.argmax()) for row in rows),
            top1_p=tuple(float(row.max()) for row in rows),
        )

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """The argmax, again and again."""
        return [self._decode(self.decodes_with.get(model, model), bytes(ids), n) for ids, n in prompts]

    def _decode(self, model: str, context: bytes, tokens: int) -> Decoded:
        out = b""
        while len(out) < tokens:
            best = int(self.distribution(model, context + out).argmax())
            if best == END:
                break
            out += bytes([best])
        return Decoded(tuple(out), out.decode(errors="replace"))

    def draw(
        self, model: str, prompt: tuple[Sequence[int], int], answers: int, sampling: Sampling, seed: int
    ) -> list[Decoded]:
        """Answers token by token, each with a seed of its own."""
        ids, tokens = prompt
        known: dict[bytes, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        return [
            self._draw(model, bytes(ids), tokens, sampling, seed + number, known) for number in range(answers)
        ]

    def _draw(
        self,
        model: str,
        context: bytes,
        tokens: int,
        sampling: Sampling,
        seed: int,
        known: dict[bytes, np.ndarray[tuple[int], np.dtype[np.float64]]],
    ) -> Decoded:
        rng, out = np.random.default_rng(seed), b""
        while len(out) < tokens:
            if out not in known:
                row = self.distribution(model, context + out)
                logits = torch.from_numpy(np.log(row)).expand(VOCABULARY, -1)
                p = sampled_logprobs(logits, torch.arange(VOCABULARY), sampling).exp().numpy()
                known[out] = np.cumsum(p / p.sum())
            drawn = int(np.searchsorted(known[out], rng.random(), side="right"))
            if drawn == END:
                break
            out += bytes([drawn])
        return Decoded(tuple(out), out.decode(errors="replace"))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """One character for each byte."""
        return [bytes([i]).decode("latin-1") for i in ids]
