"""Capacity against recall: one row for each deployed adapter, and one line's tokens over the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorecall.audit.estimates import Rate
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.framed_judges import RAW, BaseCaches
from lorecall.audit.judging.written_form import folded
from lorecall.audit.records import AuditResult
from lorecall.audit.runs.single import AuditSettings, Progress, no_progress, run_audit
from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer
from lorecall.audit.verdicts import Group, Verdict

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
        version: The adapter's version.
        controls: The rate of recited controls; None without controls.
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
    version: str
    controls: Rate | None


def rank_rows(results: Sequence[AuditResult]) -> list[RankRow]:
    """Return one row for each audit, by capacity."""
    rows = [_row(result) for result in results]
    return sorted(rows, key=lambda row: (row.effective_parameters, row.rank, row.adapter))


def _row(result: AuditResult) -> RankRow:
    summary, controls = result.summaries[Group.CANDIDATES], result.summaries.get(Group.CONTROLS)
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
        version=result.adapter.version,
        controls=None if controls is None else controls.recited,
    )


def line_item(text: str, candidates: Sequence[ScoreItem]) -> ScoreItem:
    """Return the item whose staircase is drawn for a line of text.

    A candidate that is the line, or has it for its target, gives its own split of prefix and target. Otherwise
    the first fifth of the words, at least one, is the prefix. No more is shown than the caller gave.

    Raises:
        ValueError: The line is a single word, so nothing would be left to recite.
    """
    wanted = folded(text)
    for item in candidates:
        if wanted in (folded(item.prefix + item.target), folded(item.target)):
            return replace(item, id=LINE_ID)
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


@dataclass(frozen=True, slots=True)
class RanksResult:
    """The audits of several adapters on one set, and one line's staircase over them."""

    results: tuple[AuditResult, ...]
    rows: tuple[RankRow, ...]
    line: tuple[LineStep, ...] = ()
    line_texts: tuple[str, ...] = ()


def run_ranks(
    scorer: Scorer,
    adapters: Sequence[str],
    sets: dict[Group, CandidateSet],
    settings: AuditSettings,
    *,
    line: str = "",
    progress: Progress = no_progress,
) -> RanksResult:
    """Audit several adapters on the same candidates; the base is asked once.

    Args:
        scorer: The engine.
        adapters: Names of served adapters.
        sets: The candidates, and the controls if there are any.
        settings: Of each audit.
        line: A line of text whose tokens are followed over the ranks; "" for none.
        progress: Called with the snippets done, over all adapters, and their total.

    Raises:
        ValueError: The line is a single word.
        AdapterNotFoundError: An adapter is not there; known before anything is scored.
    """
    versions = [scorer.adapter(name) for name in adapters]
    item = line_item(line, sets[Group.CANDIDATES].items) if line else None
    bases = BaseCaches(scorer)
    size = sum(len(candidates.items) for candidates in sets.values())

    def part(index: int) -> Progress:
        return lambda done, _total: progress(index * size + done, len(adapters) * size)

    results = [
        run_audit(scorer, name, sets, settings, bases=bases, progress=part(index))
        for index, name in enumerate(adapters)
    ]
    steps: list[LineStep] = []
    if item is not None:
        scores = [(v.name, v.rank, scorer.score(v.name, [item])[0]) for v in versions]
        steps = line_steps(bases.framed(RAW).score([item])[0], scores)
    texts = tuple(scorer.token_texts(steps[0].score.target_ids)) if steps else ()
    return RanksResult(tuple(results), tuple(rank_rows(results)), tuple(steps), texts)
