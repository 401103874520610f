"""The way of an audit: candidates and controls, scored and decoded through the adapter and the base."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lorecall.adapters.errors import AdapterError, ScorerError
from lorecall.audit.base_view import BaseView
from lorecall.audit.batches import batches
from lorecall.audit.candidates import CandidateSet
from lorecall.audit.epsilon import measure_epsilon
from lorecall.audit.judge import Judge
from lorecall.audit.result import AuditResult, Epsilon, Group, SetSource, SnippetResult, summarise
from lorecall.audit.scorer import AdapterVersion, EngineInfo, ScoreItem, Scorer
from lorecall.audit.statistics import CONFIDENCE
from lorecall.audit.verdict import Bounds

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What an audit can be told.

    Attributes:
        epsilon: Bound on the engine's per-logit error; None takes the engine's own, or measures one.
        bounds: The bounds of the softer verdicts.
        seed: Of every random choice.
        confidence: Of every interval.
        chunk: Snippets scored and decoded before the progress moves.
        framing: How the scorer frames prefixes, for the report.
    """

    epsilon: float | None = None
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    confidence: float = CONFIDENCE
    chunk: int = 64
    framing: str = "raw"


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


def run_audit(
    scorer: Scorer,
    adapter: str,
    sets: dict[Group, CandidateSet],
    settings: AuditSettings,
    *,
    base: BaseView | None = None,
    progress: Progress = no_progress,
) -> AuditResult:
    """Audit one adapter.

    Args:
        scorer: The engine.
        adapter: Name of a served adapter.
        sets: The candidates, and the controls if there are any.
        settings: What the audit was told.
        base: The base's view of the same sets, to share between audits of several adapters.
        progress: Called with the snippets done and their total.

    Raises:
        AdapterNotFoundError: No adapter of that name.
        AdapterError: The adapter's prompt scores would not be its own, so no verdict could be trusted.
        ScorerError: The engine could not be reached or broke its contract.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    engine, version = scorer.info(), scorer.adapter(adapter)
    refuse(version)
    epsilon = resolve_epsilon(scorer, version.name, sets[Group.CANDIDATES].items, settings, engine)
    judge = Judge(scorer, version.name, base or BaseView(scorer, engine.base), epsilon.value, settings.bounds)
    work = [(group, item) for group, candidates in sets.items() for item in candidates.items]
    snippets: list[SnippetResult] = []
    progress(0, len(work))
    for chunk in batches(work, settings.chunk):
        snippets.extend(judge.chunk(chunk))
        progress(len(snippets), len(work))
    if scorer.adapter(adapter).version != version.version:
        raise ScorerError(
            f"{adapter!r} was given a new version during the audit", hint="audit again, when it is at rest"
        )
    return AuditResult(
        adapter=version,
        engine=engine,
        epsilon=epsilon,
        bounds=settings.bounds,
        seed=settings.seed,
        confidence=settings.confidence,
        framing=settings.framing,
        sources={group: SetSource(s.name, s.digest, len(s.bad)) for group, s in sets.items()},
        snippets=tuple(snippets),
        started=started,
        seconds=time.monotonic() - clock,
        summaries={
            group: summarise((s for s in snippets if s.group is group), settings.confidence) for group in sets
        },
    )


def refuse(adapter: AdapterVersion) -> None:
    """Refuse an adapter whose prompt scores are not its own.

    Raises:
        AdapterError: It trains what the engine leaves out of prompt scores: a leak would look clean.
    """
    if adapter.refusal:
        raise AdapterError(
            f"adapter {adapter.name!r} cannot be audited by prompt scores: {adapter.refusal}",
            hint="train it on linear projections only, without lm_head, embed_tokens or modules_to_save",
            param="adapter",
        )


def resolve_epsilon(
    scorer: Scorer, model: str, items: Sequence[ScoreItem], settings: AuditSettings, engine: EngineInfo
) -> Epsilon:
    """Return the option's ε, else the engine's own, else one measured on a sample of the candidates."""
    if settings.epsilon is not None:
        return Epsilon(settings.epsilon, "option")
    if engine.epsilon is not None:
        return Epsilon(engine.epsilon, "engine")
    return Epsilon(measure_epsilon(scorer, model, items, settings.seed), "measured")
