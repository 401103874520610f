"""The machine-readable report of one audit: built from the result, checked against its schema, written."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.judging.match import align
from lorecall.audit.judging.peer_measures import exact_memorization, extraction_strength
from lorecall.audit.judging.rule import argmax_flags, threshold
from lorecall.audit.policy.policy import Gate, Policy
from lorecall.audit.records import AuditResult, Group, Rate, SetSummary, SnippetResult
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.reports.schemas import check
from lorecall.audit.reports.seal import seal

SCHEMA_VERSION = "1.0"
Report = dict[str, Any]
TokenTexts = Callable[[Sequence[int]], list[str]]


def build_report(
    result: AuditResult,
    gate: Gate,
    policy: Policy,
    redactor: Redactor,
    token_texts: TokenTexts | None = None,
    *,
    entries: Sequence[Report] | None = None,
) -> Report:
    """Return the report of one audit as JSON values, sealed.

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
    return seal(
        {
            "schema_version": SCHEMA_VERSION,
            "tool": {"name": "lorecall", "version": version("lorecall")},
            "started": result.started,
            "seconds": round(result.seconds, 3),
            "adapter": {
                "name": result.adapter.name,
                "version": result.adapter.version,
                "rank": result.adapter.rank,
                "effective_parameters": result.adapter.effective_parameters,
                "training": result.adapter.training,
            },
            "engine": {
                "engine": result.engine.engine,
                "base": result.engine.base,
                "base_digest": result.engine.base_digest,
                "scheme": result.engine.scheme,
            },
            "epsilon": result.epsilon.value,
            "epsilon_source": result.epsilon.source,
            "threshold": threshold(result.epsilon.value),
            "settings": {
                "views": list(result.views),
                "seed": result.seed,
                "confidence": result.confidence,
                "edit_distance": result.bounds.edit_distance,
                "bits": result.bounds.bits,
            },
            "inputs": {str(group): asdict(source) for group, source in result.sources.items()},
            "text": {"shown": redactor.show, "salt_id": redactor.salt_id},
            "gate": {
                "passed": gate.passed,
                "exit_code": int(gate.exit_code),
                "reasons": list(gate.reasons),
                "policy": policy.as_dict(),
            },
            "summary": _summary(result.summaries[Group.CANDIDATES]),
            "controls": _summary(result.summaries[Group.CONTROLS])
            if Group.CONTROLS in result.summaries
            else None,
            "sequential": _sequential(result),
            "multiplicity": _multiplicity(result),
            "omitted": {
                str(group): summary.snippets - sum(entry["set"] == group for entry in entries)
                for group, summary in result.summaries.items()
            },
            "snippets": list(entries),
        }
    )


def _sequential(result: AuditResult) -> Report | None:
    outcome = result.sequential
    return None if outcome is None else {**asdict(outcome), "decision": outcome.decision}


def _multiplicity(result: AuditResult) -> Report:
    """Say how many false alarms the controls' rate would allow among so many snippets tested at once."""
    tested = result.summaries[Group.CANDIDATES].recited.of
    controls = result.summaries.get(Group.CONTROLS)
    return {
        "tests": tested,
        "false_alarms_at_most": None if controls is None else tested * controls.recited.high,
    }


def _rate(rate: Rate) -> Report:
    return {"hits": rate.hits, "of": rate.of, "low": rate.low, "high": rate.high}


def _summary(summary: SetSummary) -> Report:
    return {
        "snippets": summary.snippets,
        "tokens": summary.tokens,
        "tokens_over_half": summary.tokens_over_half,
        "verdicts": {str(verdict): count for verdict, count in summary.verdicts.items()},
        "delta_loss": summary.delta_loss,
        "recited": _rate(summary.recited),
        "leaked": _rate(summary.leaked),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def snippet_entry(
    snippet: SnippetResult, redactor: Redactor, token_texts: TokenTexts | None = None
) -> Report:
    """Return a report's entry of one snippet; the text of each token is asked only where texts are shown."""
    texts = token_texts if redactor.show else None
    entry: Report = {
        "id": snippet.item.id,
        "set": str(snippet.group),
        "verdict": str(snippet.verdict),
        "flags": [str(flag) for flag in snippet.flags],
        "alarm": snippet.alarm,
        "error": snippet.error,
        "view": snippet.view,
        "views": [{"view": v, "verdict": str(verdict), "min_p": p} for v, verdict, p in snippet.views],
        "prefix": redactor.redact(snippet.item.prefix),
        "target": redactor.redact(snippet.item.target),
        "min_p": None,
        "decoded_equal": None,
        "tokens": [],
    }
    if snippet.rule is None:
        return entry
    return {**entry, **_scores(snippet), "tokens": _tokens(snippet, texts)}


def _scores(snippet: SnippetResult) -> Report:
    rule, base_rule, match = snippet.rule, snippet.base_rule, snippet.match
    if snippet.score is None or rule is None or base_rule is None or match is None:
        raise ValueError(f"snippet {snippet.item.id!r} is not complete")
    flags = argmax_flags(snippet.score)
    return {
        "length": rule.tokens,
        "min_p": rule.min_p,
        "min_p_at": rule.min_p_at,
        "over_half": rule.over_half,
        "locked": list(rule.locked),
        "near": list(rule.near),
        "certified_by_p": rule.certified,
        "rank1": rule.rank1,
        "exact_memorization": exact_memorization(flags),
        "extraction_strength": extraction_strength(flags),
        "decoded_equal": match.verbatim,
        "decoded_ids_equal": match.ids_equal,
        "edit_distance": match.distance,
        "first_failing": rule.first_failing,
        "longest_run": rule.longest_run,
        "longest_run_at": rule.longest_run_at,
        "run_bits": snippet.run_bits,
        "loss": rule.loss,
        "base_loss": base_rule.loss,
        "delta_loss": snippet.delta_loss,
        "base_min_p": base_rule.min_p,
        "base_bits": snippet.base_bits,
        "base_recites": snippet.base_match is not None and snippet.base_match.verbatim,
        "log10_pz": _finite(rule.log_pz / math.log(10.0)),
        "log10_n50": _finite(rule.log10_n50),
    }


def _tokens(snippet: SnippetResult, texts: TokenTexts | None) -> list[Report]:
    if snippet.score is None or snippet.base is None:
        return []
    score, base = snippet.score, snippet.base
    places = align(score.target_ids, base.target_ids)
    tokens: list[Report] = [
        {"id": token, "p": p, "rank": rank, "base_p": None if at is None else base.p[at]}
        for token, p, rank, at in zip(score.target_ids, score.p, score.rank, places, strict=True)
    ]
    if texts is not None:
        for token, text in zip(tokens, texts(score.target_ids), strict=True):
            token["text"] = text
    return tokens


def check_report(report: Report, name: str = "report") -> None:
    """Check a report against its schema.

    Raises:
        UsageError: It does not fit; the message names the field, without its value.
    """
    check(report, "report", name)


def write_json(report: Report, path: Path) -> None:
    """Check a report and write it.

    Raises:
        UsageError: It does not fit its schema.
    """
    check_report(report, path.name)
    text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read a report and check it.

    Raises:
        UsageError: It is missing, is not JSON, or does not fit its schema.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"no report at {str(path)!r}", hint="name a report.json") from error
    except ValueError as error:
        raise UsageError(f"{path.name!r} is not JSON", hint="name a report.json") from error
    check_report(report, path.name)
    return cast("Report", report)
