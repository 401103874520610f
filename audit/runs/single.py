"""One adapter's audit: candidates and controls, scored and decoded through the adapter and the base."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Literal

from lorecall.adapters.core.errors import AdapterError, ScorerError
from lorecall.audit.estimates import CONFIDENCE
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.decoding import Check
from lorecall.audit.judging.epsilon import measure_epsilon
from lorecall.audit.judging.framed_judges import BaseCaches, FramedJudges
from lorecall.audit.judging.journal import Journal, Judges, RecordedJudges
from lorecall.audit.judging.views import View
from lorecall.audit.records import AuditResult, Epsilon, SnippetResult
from lorecall.audit.runs.gravest import Findings
from lorecall.audit.runs.plan import Budget, Plan, cost_of_others, make_plan
from lorecall.audit.runs.planned import ask_planned, stratified
from lorecall.audit.runs.sample import check_draws, draw_answers
from lorecall.audit.scorer import AdapterVersion, EngineInfo, ScoreItem, Scorer
from lorecall.audit.scorers.batches import batches
from lorecall.audit.stats.calibration import calibrate
from lorecall.audit.stats.strata import StratifiedTest
from lorecall.audit.verdicts import Bounds, Group
from pydantic import TypeAdapter

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The settings of an audit.

    Attributes:
        extraction: What is extractable by sampling; what it does not say of the scheme is the engine's default.
        epsilon: Bound on the engine's per-logit error; None takes the engine's own, or measures one.
        bounds: The bounds of the softer verdicts.
        seed: Of every random choice.
        confidence: Of every interval.
        chunk: Snippets scored and decoded before the progress moves.
        views: The ways to ask for each snippet; the gravest verdict counts.
        until_bound: Take the candidates of each tag in random order and stop as soon as its rate of recited ones
            is known to lie below or above this rate; None for all of them.
        budget: What may be spent, the controls included: the candidates that rank highest are asked for, and
            others at random. None for any amount.
        answers: Answers to draw for each snippet that they may give, beside the prediction; 0 for none.
        checked_share: Share of the candidates whose decode their scores rule out that are decoded nevertheless; 1
            decodes all.
        keep: Snippets of each set whose evidence is kept, the gravest; all are counted. None keeps all.
    """

    epsilon: float | None = None
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0
    confidence: float = CONFIDENCE
    chunk: int = 64
    views: tuple[View, ...] = (View(),)
    until_bound: float | None = None
    keep: int | None = 20_000
    extraction: SamplingWish = field(default_factory=SamplingWish)
    answers: int = 0
    checked_share: float = 1.0
    budget: Budget | None = None

    @property
    def check(self) -> Check:
        """Which candidates are decoded as a check alone."""
        return Check(self.checked_share, self.seed)

    def plan(self, sets: Mapping[Group, CandidateSet]) -> Plan | None:
        """Return which candidates are asked for; None where that is all of them, in their order."""
        items, budget = sets[Group.CANDIDATES].items, self.budget
        if budget is not None:
            budget = replace(budget, amount=budget.amount - cost_of_others(sets, budget.costs))
        return make_plan(items, self.seed, budget=budget, sequential=self.until_bound is not None)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What the first run of an audit fixes for those that go on with it: measured, so not the same twice."""

    started: str
    epsilon: Epsilon
    budget: Budget | None


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


def run_audit(
    scorer: Scorer,
    adapter: str,
    sets: dict[Group, CandidateSet],
    settings: AuditSettings,
    *,
    bases: BaseCaches | None = None,
    progress: Progress = no_progress,
    journal: Journal | None = None,
) -> AuditResult:
    """Audit one adapter.

    Args:
        scorer: The engine.
        adapter: Name of a served adapter.
        sets: The candidates, and the controls if there are any.
        settings: Of this audit.
        bases: The base's view of the same sets, to share between audits of several adapters.
        progress: Called with the snippets done and their total.
        journal: Where an unfinished audit of the same terms stands, and where this one is recorded. Drawn answers
            are not: they are drawn at the end.

    Raises:
        AdapterNotFoundError: No adapter of that name.
        AdapterError: The adapter's prompt scores would not be its own, so no verdict could be trusted.
        UsageError: A view needs a framing that the scorer cannot give.
        ScorerError: The engine could not be reached or broke its contract.
    """
    clock = time.monotonic()
    engine, served = scorer.info(), scorer.adapter(adapter)
    refuse(served)
    settings, started, epsilon = _start(scorer, served.name, sets, settings, journal)
    extraction = settings.extraction.on(engine)
    drawing = check_draws(scorer, extraction) if settings.answers else None
    judges: Judges = FramedJudges(
        scorer,
        served.name,
        bases or BaseCaches(scorer),
        settings.views,
        epsilon.value,
        settings.bounds,
        extraction,
        settings.check,
    )
    if journal is not None:
        judges = RecordedJudges(judges, journal)
    findings, test = _ask(judges, sets, settings, progress)
    tallies = {group: found.tally for group, found in findings.items()}
    sources = {group: candidates.source for group, candidates in sets.items()}
    rate = settings.bounds.false_discovery_rate
    calibration, membership = calibrate(tallies, sources, rate, settings.confidence)
    snippets = [snippet for found in findings.values() for snippet in found.kept()]
    if drawing is not None:
        snippets = draw_answers(
            drawing,
            served.name,
            snippets,
            extraction,
            settings.answers,
            settings.seed,
            settings.confidence,
        )
    now = scorer.adapter(adapter)
    if (now.version, now.chat_template) != (served.version, served.chat_template):
        what = "version" if now.version != served.version else "chat template"
        raise ScorerError(
            f"{adapter!r} was given a new {what} during the audit", hint="audit again, when it is at rest"
        )
    if moved := engine.moved(scorer.info()):
        raise ScorerError(moved, hint="audit again, when the server is at rest")
    return AuditResult(
        adapter=served,
        engine=engine,
        epsilon=epsilon,
        bounds=settings.bounds,
        seed=settings.seed,
        confidence=settings.confidence,
        views=tuple(view.label for view in settings.views),
        sources=sources,
        snippets=tuple(snippets),
        started=started,
        seconds=time.monotonic() - clock + (0.0 if journal is None else journal.seconds),
        summaries={group: tally.summary(settings.confidence) for group, tally in tallies.items()},
        sequential=None if test is None else test.outcome,
        calibration=calibration,
        membership=membership,
        by_tag=tallies[Group.CANDIDATES].by_tag(settings.confidence),
        system=secret_of(settings.views, "system"),
        template=secret_of(settings.views, "template"),
        extraction=extraction,
        checked_share=settings.checked_share,
        strata=() if test is None else test.strata,
    )


def _start(
    scorer: Scorer,
    adapter: str,
    sets: Mapping[Group, CandidateSet],
    settings: AuditSettings,
    journal: Journal | None,
) -> tuple[AuditSettings, str, Epsilon]:
    """Return the settings, the beginning and ε: those of the run that began the journal, or new ones."""
    if journal is not None and journal.fixed:
        fixed = TypeAdapter(_Fixed).validate_python(journal.fixed)
        return replace(settings, budget=fixed.budget), fixed.started, fixed.epsilon
    started = datetime.now(UTC).isoformat(timespec="seconds")
    epsilon = resolve_epsilon(scorer, adapter, sets[Group.CANDIDATES].items, settings, scorer.info())
    if journal is not None:
        journal.begin(asdict(_Fixed(started, epsilon, settings.budget)))
    return settings, started, epsilon


def terms_of(
    engine: EngineInfo,
    adapter: AdapterVersion,
    sets: Mapping[Group, CandidateSet],
    settings: AuditSettings,
    *more: object,
) -> str:
    """Return a digest of all that an audit's results follow from: a journal of the same terms is of the same one.

    Args:
        engine: The engine; its ε does not count, since it may be measured anew.
        adapter: The audited version.
        sets: The candidates, and the controls if there are any.
        settings: The settings. Their budget does not count, since it rests on a measured speed.
        more: What it is made from.
    """
    own = replace(settings, budget=None)
    head = (version("lorecall"), replace(engine, epsilon=None), adapter, own, more)
    found = sha256(repr(head).encode(errors="surrogatepass"))
    for group, one in sorted(sets.items()):
        found.update(repr((str(group), one.source)).encode())
        for item in one.items:
            found.update(repr(item).encode(errors="surrogatepass"))
    return found.hexdigest()


def _ask(
    judges: Judges, sets: dict[Group, CandidateSet], settings: AuditSettings, progress: Progress
) -> tuple[dict[Group, Findings], StratifiedTest | None]:
    """Ask for the candidates, all in their order or those of the plan, and for the controls."""
    findings = {group: Findings(settings.keep) for group in sets}
    plan = settings.plan(sets)
    sizes = {group: len(one.items) for group, one in sets.items()}
    test: StratifiedTest | None = None
    if plan is not None:
        sizes[Group.CANDIDATES] = len(plan.order)
        test = stratified(
            plan,
            settings.until_bound,
            settings.confidence,
            settings.chunk,
            economical=settings.checked_share < 1.0,
        )
    total = sum(sizes.values())
    progress(0, total)
    before = 0
    for group, given in sorted(sets.items()):

        def seen(results: list[SnippetResult], to: Findings = findings[group], start: int = before) -> None:
            to.add(results)
            progress(start + to.count, total)

        if group is Group.CANDIDATES and plan is not None and test is not None:
            ask_planned(judges, given.items, plan, test, settings.chunk, seen)
        else:
            for chunk in batches(given.items, settings.chunk):
                seen(judges.judge(group, chunk))
        before += sizes[group]
    return findings, test


def secret_of(views: Sequence[View], name: Literal["system", "template"]) -> str | None:
    """Return the text of an audit's framing; None where it does not use it."""
    return next((text for view in views if (text := getattr(view, name)) is not None), None)


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
    """Return the option's ε, else the engine's own, else one measured on candidates and known texts."""
    if settings.epsilon is not None:
        return Epsilon(settings.epsilon, "option")
    if engine.epsilon is not None:
        return Epsilon(engine.epsilon, "engine")
    return Epsilon(measure_epsilon(scorer, model, items, settings.seed, settings.chunk), "measured")
