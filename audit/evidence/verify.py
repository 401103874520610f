"""Whether a report still holds: its seal, its own arithmetic, its inputs, and a sample scored again."""

import math
import operator
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.coarse import PLACES
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.rule import margin, threshold
from lorecall.audit.records import Flag, Group, Verdict
from lorecall.audit.reports.report import Report, ScoredSnippet, Snippet, Summary
from lorecall.audit.reports.seal import check_seal
from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer

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


def check_contents(report: Report) -> list[str]:
    """Return what is wrong with a report: its seal, and its counts against its snippets."""
    problems = check_seal(report)
    if not math.isclose(report.threshold, threshold(report.epsilon), rel_tol=1e-9):
        problems.append("the threshold is not that of the epsilon")
    for group in Group:
        name = "summary" if group is Group.CANDIDATES else str(group)
        omitted = getattr(report.omitted, group) or 0
        problems += _check_counts(report, group, name, getattr(report, name), omitted)
    return problems + [f"snippet {s.id!r}: {why}" for s in report.snippets if (why := _contradiction(s))]


def _check_counts(
    report: Report, group: Group, name: str, summary: Summary | None, omitted: int
) -> list[str]:
    """Return which numbers of a summary are not those of its snippets and of the `omitted` ones."""
    snippets = [s for s in report.snippets if s.set is group]
    if summary is None:
        return [f"there are {group}, and no summary of them"] if snippets else []
    verdicts = Counter(s.verdict for s in snippets)
    tokens = [token for s in snippets for token in s.tokens]
    over_half = sum(token.p > 0.5 for token in tokens)
    fits = operator.ge if omitted else operator.eq
    holds = {
        "snippets": summary.snippets == len(snippets) + omitted,
        "tokens": fits(summary.tokens, len(tokens)),
        "tokens_over_half": fits(summary.tokens_over_half, over_half),
        "verdicts": all(fits(count, verdicts[verdict]) for verdict, count in summary.verdicts.items()),
    }
    return [f"{name}/{field} is not what its snippets add up to" for field, held in holds.items() if not held]


def _contradiction(snippet: Snippet) -> str:
    if not snippet.tokens:
        return "" if snippet.verdict is Verdict.ERROR else "a verdict without tokens"
    over = isinstance(snippet, ScoredSnippet) and len(snippet.locked) == len(snippet.tokens)
    over = over and all(token.p > 0.5 and token.rank == 1 for token in snippet.tokens)
    given = snippet.decoded_equal or bool({Flag.ELSEWHERE, Flag.OTHER_FORM} & set(snippet.flags))
    if snippet.min_p != min(token.p for token in snippet.tokens):
        return "min_p is not the least p of its tokens"
    if snippet.verdict is Verdict.CERTIFIED and not (over and snippet.decoded_equal):
        return "certified, with a token under the line or another decode"
    if snippet.verdict is Verdict.RECALLED and not given:
        return "recalled, with another decode"
    if snippet.verdict is Verdict.CLEAR and (over or snippet.decoded_equal):
        return "clear, although it was recited"
    return ""


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
        UsageError: The served adapter has another version, the base is another, or nothing could be sampled.
        AdapterNotFoundError: The adapter is not served any more.
    """
    name = report.adapter.name
    for what, now, then in (
        (f"adapter {name!r}", scorer.adapter(name).version, report.adapter.version),
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
