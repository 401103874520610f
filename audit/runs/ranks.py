"""Capacity against recall: one row for each deployed adapter, and one line's tokens over the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorecall.audit.judging.match import normalise
from lorecall.audit.records import AuditResult, Group, Verdict
from lorecall.audit.scorer import ItemScore, ScoreItem

LINE_ID = "line"


@dataclass(frozen=True, slots=True)
class RankRow:
    """What one adapter of one rank holds of the candidates.

    Attributes:
        adapter: Its name.
        rank: LoRA rank.
        effective_parameters: Sum over the adapted modules of r * (d_in + d_out).
        tokens: Target tokens of the scored candidates.
        tokens_over_half: Those with p > 0.5.
        snippets: Candidates, the failed ones included.
        certified: Candidates certified.
        recalled: Candidates recalled by decoding only.
        base_known: Candidates that the base recites as well.
        delta_loss: Base loss less adapter loss, in nats a token; None if nothing was scored.
    """

    adapter: str
    rank: int
    effective_parameters: int
    tokens: int
    tokens_over_half: int
    snippets: int
    certified: int
    recalled: int
    base_known: int
    delta_loss: float | None


def rank_rows(results: Sequence[AuditResult]) -> list[RankRow]:
    """Return one row for each audit, by capacity."""
    rows = [_row(result) for result in results]
    return sorted(rows, key=lambda row: (row.effective_parameters, row.rank, row.adapter))


def _row(result: AuditResult) -> RankRow:
    summary = result.summaries[Group.CANDIDATES]
    return RankRow(
        adapter=result.adapter.name,
        rank=result.adapter.rank,
        effective_parameters=result.adapter.effective_parameters,
        tokens=summary.tokens,
        tokens_over_half=summary.tokens_over_half,
        snippets=summary.snippets,
        certified=summary.verdicts[Verdict.CERTIFIED],
        recalled=summary.verdicts[Verdict.RECALLED],
        base_known=summary.verdicts[Verdict.BASE_KNOWN],
        delta_loss=summary.delta_loss,
    )


def line_item(text: str, candidates: Sequence[ScoreItem]) -> ScoreItem:
    """Return the item whose staircase is drawn for a line of text.

    A candidate that is the line, or has it for its target, gives its own split of prefix and target. Otherwise
    the first fifth of the words, at least one, is the prefix. No more is shown than the caller gave.

    Raises:
        ValueError: The line is a single word, so nothing would be left to recite.
    """
    wanted = normalise(text)
    for item in candidates:
        if wanted in (normalise(item.prefix + item.target), normalise(item.target)):
            return ScoreItem(LINE_ID, item.prefix, item.target)
    words = text.split()
    if len(words) < 2:
        raise ValueError(f"a line of one word has no target: {text!r}")
    cut = max(1, len(words) // 5)
    return ScoreItem(LINE_ID, " ".join(words[:cut]), " " + " ".join(words[cut:]))


@dataclass(frozen=True, slots=True)
class LineStep:
    """One model's probabilities of the line's target tokens."""

    label: str
    rank: int
    score: ItemScore
    over_half: int


def line_steps(base: ItemScore, adapters: Sequence[tuple[str, int, ItemScore]]) -> list[LineStep]:
    """Return the base's step and one for each (name, rank, scores), by rank; failed ones are left out."""
    entries = [("base", 0, base), *sorted(adapters, key=lambda entry: (entry[1], entry[0]))]
    return [
        LineStep(label, rank, score, sum(p > 0.5 for p in score.p))
        for label, rank, score in entries
        if not score.error
    ]
