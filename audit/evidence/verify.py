"""Whether a report still holds: its seal, its own arithmetic, its inputs, and a sample scored again."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.coarse import PLACES
from lorecall.audit.evidence.entry_checks import check_entry
from lorecall.audit.evidence.recompute import Recomputed, recompute
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.rule import margin, threshold
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.signing import check_seal
from lorecall.audit.reports.snippets import Snippet
from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer
from lorecall.audit.verdicts import Group
from securesystemslib.signer import SSlibKey

ROUNDING = 1e-3
"""Logits: what single precision may move between two runs of one engine without an error of its own."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """A sample scored again.

    Attributes:
        sample: Snippets scored.
        differing: Ids of those whose tokens or probabilities are not the report's.
        largest_move: Largest move of a token's log-odds.
        tolerance: The move that the report's ε allows.
    """

    sample: int
    differing: tuple[str, ...]
    largest_move: float
    tolerance: float


def check_report(report: Report, key: SSlibKey | None = None) -> Recomputed:
    """Return what is wrong with a report, and what could not be checked.

    Args:
        report: The report.
        key: Who must have signed it; None checks no signature.
    """
    problems = check_seal(report, key)
    if not math.isclose(report.threshold, threshold(report.epsilon), rel_tol=1e-9):
        problems.append("the threshold is not that of the epsilon")
    ids = Counter((entry.set, entry.id) for entry in report.snippets)
    problems += [f"{group} has snippet {name!r} twice" for (group, name), count in ids.items() if count > 1]
    problems += [f"snippet {s.id!r}: {why}" for s in report.snippets for why in check_entry(report, s)]
    found = recompute(report)
    unchecked = () if key is not None else ("signature not checked, as no key was given",)
    return Recomputed((*problems, *found.problems), (*unchecked, *found.unchecked))


def check_contents(report: Report) -> list[str]:
    """Return what is wrong with a report, without asking who signed it."""
    return list(check_report(report).problems)


def check_input(report: Report, group: Group, given: CandidateSet) -> list[str]:
    """Return what is wrong with an input file: whether it is the one that was audited."""
    source = report.inputs.candidates if group is Group.CANDIDATES else report.inputs.controls
    if source is None:
        return [f"the report has no {group}"]
    return (
        []
        if source.digest == given.digest
        else [f"{given.name!r} is not the file of {group} that was audited"]
    )


def rescore(
    report: Report, scorer: Scorer, candidates: Sequence[ScoreItem], sample: int, seed: int
) -> Rescored:
    """Score a sample of the report's candidates again through the adapter that is served now.

    Both scorings may be off by ε in each logit, so a token's log-odds may move by 4ε.

    Raises:
        UsageError: The served adapter has another version or chat template, the base is another, or nothing could
            be sampled.
        AdapterNotFoundError: The adapter is not served any more.
    """
    name = report.adapter.name
    served = scorer.adapter(name)
    for what, now, then in (
        (f"adapter {name!r}", served.version, report.adapter.version),
        (f"the chat template of {name!r}", served.chat_template, report.adapter.chat_template or ""),
        ("the base", scorer.info().base_digest, report.engine.base_digest),
    ):
        if now != then:
            raise UsageError(f"{what} is not what was audited: {now[:16]!r}, then {then[:16]!r}")
    ids = {snippet.id for snippet in report.snippets}
    texts = {item.id: item for item in candidates if item.id in ids}
    # A snippet of a shorter prefix or of a chat framing was scored on a text that the file does not hold.
    known = [
        s
        for s in report.snippets
        if s.set is Group.CANDIDATES and s.tokens and s.view == "raw" and s.id in texts
    ]
    if not known:
        raise UsageError(
            "no snippet of the report can be scored again", hint="give the audited file with --candidates"
        )
    chosen = random.Random(seed).sample(known, min(sample, len(known)))  # noqa: S311  not for secrets
    scores = scorer.score(name, [texts[s.id] for s in chosen])
    tolerance = 4.0 * report.epsilon + ROUNDING
    moves = [_move(snippet, score) for snippet, score in zip(chosen, scores, strict=True)]
    return Rescored(
        sample=len(chosen),
        differing=tuple(s.id for s, move in zip(chosen, moves, strict=True) if move > tolerance),
        largest_move=max(moves),
        tolerance=tolerance,
    )


def _move(snippet: Snippet, score: ItemScore) -> float:
    """Return the largest move of a token's log-odds; infinite where the tokens are not the same.

    Of a redacted report, whose p have two digits, it is the least move that they leave possible.
    """
    shown = [token.id for token in snippet.tokens if token.id is not None]
    if score.error or len(snippet.tokens) != len(score.p) or (shown and shown != list(score.target_ids)):
        return math.inf
    return max(
        _log_odds_move(token.p, p, 0.0 if shown else 10.0**-PLACES)
        for token, p in zip(snippet.tokens, score.p, strict=True)
    )


def _log_odds_move(then: float, now: float, rounding: float) -> float:
    # Next to 0 and 1 the log-odds of a single-precision p are mostly rounding: there p itself must not move.
    if abs(then - now) < max(rounding, 1e-6):
        return 0.0
    nearest = then + math.copysign(rounding, now - then)
    return abs(margin(nearest) - margin(now))
