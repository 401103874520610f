"""Read scores from vLLM's prompt log-probabilities."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from lorecall.adapters.core.errors import ScorerError
from lorecall.audit.scorer import ItemScore
from lorecall.audit.scorers.splits import Split


class LogprobEntry(Protocol):
    """vLLM's entry for one token at one position: its log-probability, and its rank from 1."""

    logprob: float
    rank: int | None


def split_error(split: Split, limit: float) -> str:
    """Return why a split cannot be scored by a model of `limit` tokens, "" if it can."""
    if not split.prefix_ids:
        return "no prefix tokens, so the first target token has no probability"
    if not split.target_ids:
        return "no target tokens"
    length = len(split.prefix_ids) + len(split.target_ids)
    # One token is generated, because the API asks for at least one.
    return f"{length} tokens are more than the model's {limit}, less one" if length + 1 > limit else ""


def read_rows(name: str, split: Split, rows: Sequence[Mapping[int, LogprobEntry] | None]) -> ItemScore:
    """Read the target's rows: each holds the target token and the most likely one, which may be the same.

    Args:
        name: The item's id.
        split: What was given and what is scored.
        rows: One for each token of prefix and target.

    Raises:
        ScorerError: A row is missing, or does not hold the target token with its rank.
    """
    start = len(split.prefix_ids)
    logprobs: list[float] = []
    ranks: list[int] = []
    tops: list[tuple[int, float]] = []
    for row, token in zip(rows[start:], split.target_ids, strict=True):
        entry = (row or {}).get(token)
        if row is None or entry is None or entry.rank is None:
            raise ScorerError(f"the engine gave no prompt log-probability of a target token of item {name!r}")
        top = min(row, key=lambda t: (-row[t].logprob, t))
        logprobs.append(entry.logprob)
        ranks.append(entry.rank)
        tops.append((top, row[top].logprob))
    return ItemScore(
        id=name,
        prefix_ids=split.prefix_ids,
        target_ids=split.target_ids,
        p=tuple(min(1.0, math.exp(value)) for value in logprobs),
        logprob=tuple(logprobs),
        rank=tuple(ranks),
        top1_ids=tuple(token for token, _ in tops),
        top1_p=tuple(min(1.0, math.exp(value)) for _, value in tops),
        boundary_exact=split.exact,
    )
