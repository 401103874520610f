"""The report of one audit: built from the result, written, and read back."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lorecall.adapters.core.canonical_json import exact
from lorecall.adapters.core.errors import UsageError
from lorecall.audit import records
from lorecall.audit.coarse import (
    coarse_bits,
    coarse_chance,
    coarse_count,
    coarse_log10,
    coarse_nats,
    coarse_p,
    coarse_rank,
)
from lorecall.audit.judging.match import align
from lorecall.audit.judging.peer_measures import exact_memorization, extraction_strength
from lorecall.audit.judging.rule import argmax_flags, threshold
from lorecall.audit.policy.gate import Gate
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import AuditResult, SnippetResult
from lorecall.audit.reports.models import SCHEMA_VERSION, Engine, Inputs, Tool, parse
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.report import (
    AuditedAdapter,
    Calibration,
    Content,
    GateAnswer,
    Membership,
    Multiplicity,
    Omitted,
    Report,
    SamplingScheme,
    Sequential,
    Settings,
    Stratum,
    Summary,
    TextDisplay,
)
from lorecall.audit.reports.signing import seal
from lorecall.audit.reports.snippets import (
    Drawn,
    Entry,
    RedactedText,
    ScoredSnippet,
    Snippet,
    Token,
    ViewVerdict,
)
from lorecall.audit.scorer import Message
from lorecall.audit.stats.intervals import at_most
from lorecall.audit.verdicts import Group, Verdict
from pydantic import TypeAdapter

ENTRIES = TypeAdapter[list[Snippet]](list[Entry])
TokenTexts = Callable[[Sequence[int]], list[str]]


def build_report(
    result: AuditResult,
    gate: Gate,
    policy: Policy,
    redactor: Redactor,
    token_texts: TokenTexts | None = None,
    *,
    entries: Sequence[Snippet] | None = None,
) -> Report:
    """Return the report of one audit, sealed.

    Args:
        result: The audit.
        gate: The policy's answer.
        policy: The policy.
        redactor: What is shown of texts.
        token_texts: The text of each token, asked only where texts are shown.
        entries: The snippets' entries, where they were made before; from the result's snippets otherwise.
    """
    if entries is None:
        entries = [snippet_entry(snippet, redactor, token_texts) for snippet in result.snippets]
    summaries = {group: Summary.model_validate(summary) for group, summary in result.summaries.items()}
    return seal(
        Content(
            schema_version=SCHEMA_VERSION,
            tool=Tool.here(),
            started=result.started,
            seconds=round(result.seconds, 3),
            adapter=_adapter(result),
            engine=Engine.model_validate(result.engine),
            epsilon=result.epsilon.value,
            epsilon_source=result.epsilon.source,
            threshold=threshold(result.epsilon.value),
            settings=Settings(
                views=result.views,
                seed=result.seed,
                confidence=result.confidence,
                **dataclasses.asdict(result.bounds),
                checked_share=None if result.checked_share >= 1.0 else result.checked_share,
                sampling=SamplingScheme.of(result.extraction),
                system=_redacted(result.system, redactor),
                template=_redacted(result.template, redactor),
            ),
            inputs=Inputs.model_validate(result.sources),
            text=TextDisplay(shown=redactor.show, salt_id=redactor.salt_id),
            gate=GateAnswer(
                passed=gate.passed,
                exit_code=gate.exit_code,
                reasons=gate.reasons,
                policy=policy.model_dump(mode="json"),
            ),
            summary=summaries[Group.CANDIDATES],
            controls=summaries.get(Group.CONTROLS),
            by_tag={tag: Summary.model_validate(summary) for tag, summary in result.by_tag.items()},
            own_candidates=summaries.get(Group.OWN_CANDIDATES),
            own_controls=summaries.get(Group.OWN_CONTROLS),
            no_controls=result.no_controls or None,
            sequential=None if result.sequential is None else Sequential.model_validate(result.sequential),
            strata=tuple(map(Stratum.model_validate, result.strata)),
            multiplicity=multiplicity(result),
            calibration=(
                None if result.calibration is None else Calibration.model_validate(result.calibration)
            ),
            membership=None if result.membership is None else Membership.model_validate(result.membership),
            omitted=Omitted.model_validate(
                {
                    group: summary.snippets - sum(entry.set is group for entry in entries)
                    for group, summary in summaries.items()
                }
            ),
            snippets=tuple(entries),
        )
    )


def _adapter(result: AuditResult) -> AuditedAdapter:
    adapter = AuditedAdapter.model_validate(result.adapter)
    # a trainer's seed may be of 64 bits
    own = {"training": exact(adapter.training), "chat_template": adapter.chat_template or None}
    return adapter.model_copy(update=own)


def _redacted(text: str | None, redactor: Redactor) -> RedactedText | None:
    return None if text is None else redactor.redact(text)


def history(messages: Sequence[Message]) -> str | None:
    """Return the messages before a snippet as one text, None if there are none."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages) or None


def multiplicity(result: AuditResult) -> Multiplicity:
    """Return how many false alarms the controls' rate would allow among so many snippets tested at once."""
    tested = result.summaries[Group.CANDIDATES].recited.of
    controls = result.summaries.get(Group.CONTROLS)
    if result.calibration is not None and result.calibration.reason:
        controls = None
    return Multiplicity(
        tests=tested,
        false_alarms_at_most=None
        if controls is None
        else tested * at_most(controls.recited.hits, controls.recited.of, result.confidence),
    )


def snippet_entry(
    snippet: SnippetResult, redactor: Redactor, token_texts: TokenTexts | None = None
) -> Snippet:
    """Return a report's entry of one snippet; the text of each token is asked only where texts are shown."""
    entry = Snippet(
        id=snippet.item.id,
        set=snippet.group,
        verdict=snippet.verdict,
        flags=snippet.flags,
        alarm=snippet.alarm,
        error=snippet.error,
        view=snippet.view,
        views=tuple(
            ViewVerdict(
                view=v,
                verdict=_of_view(v, verdict, snippet.view, snippet.verdict),
                min_p=None if p is None else _p(p, redactor),
            )
            for v, verdict, p in snippet.views
        ),
        not_asked=snippet.not_asked,
        prefix=redactor.redact(snippet.item.prefix),
        target=redactor.redact(snippet.item.target),
        history=_redacted(history(snippet.item.messages), redactor),
        min_p=None,
        decoded_equal=None,
        tokens=(),
        p_value=snippet.p_value,
        q_value=snippet.q_value,
        tags=snippet.item.tags,
    )
    return entry if snippet.rule is None else _scored(entry, snippet, redactor, token_texts)


def _of_view(view: str, found: Verdict, chosen: str, verdict: Verdict) -> Verdict:
    """Return what a view gave: `partial` only where the snippet is, since no view is compared with controls."""
    unproved = found is Verdict.PARTIAL and not (view == chosen and verdict is Verdict.PARTIAL)
    return Verdict.CLEAR if unproved else found


def pending_entry(entry: Snippet) -> Snippet:
    """Return an entry as it stands while its audit runs: a recalled stretch is no finding yet."""
    if entry.verdict is not Verdict.PARTIAL or entry.alarm:
        return entry
    return _with_verdict(entry, Verdict.CLEAR, {"pending": True})


def final_entry(entry: Snippet, verdict: Verdict, p_value: float | None, q_value: float | None) -> Snippet:
    """Return an entry as it stands at the end, with what its comparison with the controls gave."""
    return _with_verdict(entry, verdict, {"pending": None, "p_value": p_value, "q_value": q_value})


def _with_verdict(entry: Snippet, verdict: Verdict, values: dict[str, object]) -> Snippet:
    views = entry.views
    if Verdict.PARTIAL in (verdict, entry.verdict):
        views = tuple(
            view.model_copy(update={"verdict": verdict}) if view.view == entry.view else view
            for view in views
        )
    return entry.model_copy(update={"verdict": verdict, "views": views, **values})


def _p(p: float, redactor: Redactor) -> float:
    return p if redactor.show else coarse_p(p)


def _scored(
    entry: Snippet, snippet: SnippetResult, redactor: Redactor, texts: TokenTexts | None
) -> ScoredSnippet:
    rule, base_rule, match = snippet.rule, snippet.base_rule, snippet.match
    if snippet.score is None or rule is None or base_rule is None:
        raise ValueError(f"snippet {snippet.item.id!r} is not complete")
    flags, judged = argmax_flags(snippet.score), snippet.judged()
    scores = {
        "tokens": _tokens(snippet, redactor, texts),
        "length": rule.tokens,
        "min_p": _p(rule.min_p, redactor),
        "min_p_at": rule.min_p_at,
        "over_half": rule.over_half,
        "locked": rule.locked,
        "near": rule.near,
        "certified_by_p": rule.certified,
        "rank1": rule.rank1,
        "exact_memorization": exact_memorization(flags),
        "extraction_strength": extraction_strength(flags),
        "decoded_equal": None if match is None else match.verbatim,
        "decoded_ids_equal": None if match is None else match.ids_equal,
        "edit_distance": None if match is None else match.distance,
        "first_failing": rule.first_failing,
        "longest_run": rule.longest_run,
        "longest_run_at": rule.longest_run_at,
        "run_bits": coarse_bits(snippet.run_bits),
        "loss": coarse_nats(rule.loss),
        "base_loss": coarse_nats(base_rule.loss),
        "delta_loss": judged.delta_loss,
        "base_min_p": _p(base_rule.min_p, redactor),
        "base_bits": coarse_bits(snippet.base_bits),
        "base_recites": snippet.base_match is not None and snippet.base_match.verbatim,
        "log10_pz": judged.log10_pz,
        "log10_n50": coarse_log10(rule.log10_n50),
        "chance_at_most": snippet.chance_at_most,
        "unknown_chance": True if snippet.unknown_chance else None,
        "drawn": None if snippet.drawn is None else _drawn(snippet.drawn, redactor),
        "chance": None if snippet.chance is None else coarse_chance(snippet.chance, over=snippet.sampled),
    }
    return ScoredSnippet.model_validate({**dict(entry), **scores})


def _drawn(drawn: records.Drawn, redactor: Redactor) -> Drawn:
    """Return the counts; without shown text the prediction is as coarse as other probabilities."""
    if drawn.expected is not None and drawn.interval is not None and not redactor.show:
        low, high = drawn.interval
        interval = (coarse_count(low, up=False), coarse_count(high, up=True))
        drawn = dataclasses.replace(drawn, expected=float(f"{drawn.expected:.2g}"), interval=interval)
    return Drawn.model_validate(drawn)


def _tokens(snippet: SnippetResult, redactor: Redactor, texts: TokenTexts | None) -> tuple[Token, ...]:
    if snippet.score is None or snippet.base is None:
        return ()
    score, base = snippet.score, snippet.base
    under_base = [None if at is None else base.p[at] for at in align(score.target_ids, base.target_ids)]
    if not redactor.show:
        return tuple(
            Token(coarse_p(p), coarse_rank(rank), None if base_p is None else coarse_p(base_p))
            for p, rank, base_p in zip(score.p, score.rank, under_base, strict=True)
        )
    shown: Sequence[str | None] = [None] * len(score.p) if texts is None else texts(score.target_ids)
    columns = zip(score.p, score.rank, under_base, score.target_ids, shown, strict=True)
    return tuple(Token(*column) for column in columns)


def parse_report(value: object, name: str = "report") -> Report:
    """Return the report that JSON values are.

    Args:
        value: JSON values.
        name: What to call it in the error.

    Raises:
        UsageError: It does not fit; the message names the field, without its value.
    """
    return parse(Report, value, name)


def parse_entries(values: Sequence[object]) -> list[Snippet]:
    """Return the snippets that JSON values are.

    Raises:
        pydantic.ValidationError: One of them does not fit.
    """
    return ENTRIES.validate_python(values)


def read_report(path: Path) -> Report:
    """Read a report and check it.

    Raises:
        UsageError: It is missing, is not JSON, or does not fit its schema.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"no report at {str(path)!r}", hint="name a report.json") from error
    except ValueError as error:
        raise UsageError(f"{path.name!r} is not JSON", hint="name a report.json") from error
    return parse_report(value, path.name)
