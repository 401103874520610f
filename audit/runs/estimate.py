"""What an audit will cost, before it runs: tokens, decodes, and minutes at the engine's measured rate."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.decoding import LEAST_RECALLED, recalled_share
from lorecall.audit.runs.plan import Costs, others_of
from lorecall.audit.runs.single import AuditSettings, refuse
from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer
from lorecall.audit.verdicts import Group

WARM_UP = 2
"""Texts that are asked for before the clock runs: an engine's first requests are slow."""

PROBED = AuditSettings().chunk + WARM_UP
"""Texts that are scored at most, unless a caller makes the batches larger."""

DECODED = 16
"""Candidates that are decoded to measure how quickly that goes."""

SPREAD = 0.05
"""ε for the guess of how many decodes are ruled out, where nobody stated it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What an engine does, measured on some of an audit's candidates.

    Attributes:
        asked: Candidates that it was measured on.
        scored_per_second: Tokens, prefix and target, that are scored in a second.
        decoded_per_second: Tokens that are decoded in a second.
        bytes_per_token: Bytes of text in a token.
        left_open: Share of the candidates whose decode the scores do not rule out.
    """

    asked: int
    scored_per_second: float
    decoded_per_second: float
    bytes_per_token: float
    left_open: float

    def costs(self, settings: AuditSettings) -> Costs:
        """Return what a candidate costs, in seconds."""
        share = settings.checked_share
        return Costs(
            1.0 / self.scored_per_second,
            1.0 / self.decoded_per_second,
            self.bytes_per_token,
            len(settings.views),
            settings.bounds.answer_tokens,
            self.left_open + (1.0 - self.left_open) * share if share < 1.0 else 1.0,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an audit will cost.

    Attributes:
        candidates: Candidates that may be asked for,
        left_out: and those that will not.
        controls: Other snippets.
        scored_tokens: Tokens to score, through the adapter and through the base.
        decodes: Answers to decode.
        decoded_tokens: Their tokens.
        seconds: At the measured rate.
    """

    candidates: int
    left_out: int
    controls: int
    scored_tokens: float
    decodes: float
    decoded_tokens: float
    seconds: float


def probe(
    scorer: Scorer,
    adapter: str,
    items: Sequence[ScoreItem],
    settings: AuditSettings,
    clock: Callable[[], float] = time.perf_counter,
) -> Probe | None:
    """Score and decode a random sample of the candidates, and time it; None if none of them could be scored.

    Args:
        scorer: The engine.
        adapter: The served adapter.
        items: The candidates.
        settings: Of the audit; a batch is as large as its own.
        clock: Tells seconds.

    Raises:
        AdapterNotFoundError: No adapter of that name.
        AdapterError: Its prompt scores would not be its own.
        ScorerError: The engine could not be reached.
    """
    refuse(scorer.adapter(adapter))
    base = scorer.info().base
    rng = random.Random(settings.seed)  # noqa: S311  not for secrets
    places = rng.sample(range(len(items)), min(len(items), settings.chunk + WARM_UP))
    sample = [items[place] for place in places]
    first, sample = sample[:WARM_UP], sample[WARM_UP:] or sample[:WARM_UP]
    for model in (adapter, base):
        warm = _good(scorer.score(model, first))
    if warm:
        scorer.decode(adapter, [_prompt(warm[0], settings)])
    start = clock()
    pairs = zip(scorer.score(adapter, sample), scorer.score(base, sample), strict=True)
    seconds = clock() - start
    scored = [
        (item, *pair) for item, pair in zip(sample, pairs, strict=True) if len(_good(pair)) == len(pair)
    ]
    if not scored:
        return None
    prompts = [_prompt(score, settings) for _, score, _ in scored[:DECODED]]
    start = clock()
    scorer.decode(adapter, prompts)
    decoding = clock() - start
    epsilon = settings.epsilon if settings.epsilon is not None else (scorer.info().epsilon or SPREAD)
    tokens = sum(len(one.prefix_ids) + len(one.target_ids) for _, one, _ in scored)
    size = sum(len(text.encode(errors="surrogatepass")) for item, *_ in scored for text in item.texts)
    shares = [recalled_share(score, under, epsilon) for _, score, under in scored]
    return Probe(
        asked=len(scored),
        scored_per_second=2 * tokens / max(seconds, 1e-9),
        decoded_per_second=sum(count for _, count in prompts) / max(decoding, 1e-9),
        bytes_per_token=max(size, 1) / tokens,
        left_open=sum(share >= LEAST_RECALLED for share in shares) / len(shares),
    )


def _good(scores: Sequence[ItemScore]) -> list[ItemScore]:
    return [score for score in scores if not score.error and score.prefix_ids and score.target_ids]


def _prompt(score: ItemScore, settings: AuditSettings) -> tuple[tuple[int, ...], int]:
    return score.prefix_ids, len(score.target_ids) + settings.bounds.answer_tokens


def estimate(sets: Mapping[Group, CandidateSet], settings: AuditSettings, found: Probe) -> Estimate:
    """Return what an audit will cost at most: a sequential test may stop earlier.

    Args:
        sets: The candidates, and the controls if there are any.
        settings: Its settings, the budget included.
        found: What the engine does.
    """
    costs, plan = found.costs(settings), settings.plan(sets)
    items = sets[Group.CANDIDATES].items
    others = list(others_of(sets))
    whole = plan is None or settings.budget is None
    asked: Sequence[ScoreItem] = items if whole or plan is None else [items[place] for place in plan.order]
    share = costs.decoded_share
    scored = sum(map(costs.scored_tokens, asked)) + sum(map(costs.scored_tokens, others))
    decoded = share * sum(map(costs.decoded_tokens, asked)) + sum(map(costs.decoded_tokens, others))
    return Estimate(
        candidates=len(asked),
        left_out=len(items) - len(asked),
        controls=len(others),
        scored_tokens=scored,
        decodes=costs.views * (share * len(asked) + len(others)),
        decoded_tokens=decoded,
        seconds=scored * costs.scored + decoded * costs.decoded,
    )
