"""Draw answers from the engine and count how often a target comes out, beside how often it should."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.extraction import Extraction
from lorecall.audit.judging.rule import sampled_log_pz
from lorecall.audit.records import Drawn, SnippetResult
from lorecall.audit.scorer import Decoded, ItemScore
from lorecall.audit.scorers.sampling import DrawingScorer

LEAST = 0.1
"""Snippets are drawn that are expected so many times or more, and those whose probability is not known."""


def check_draws(scorer: object, extraction: Extraction) -> DrawingScorer:
    """Return the scorer, if answers can be drawn from it.

    Raises:
        UsageError: It only decodes greedily, or the scheme does.
    """
    if not isinstance(scorer, DrawingScorer):
        raise UsageError(
            f"{type(scorer).__name__} cannot draw answers", hint="leave --sample out", param="sample"
        )
    if extraction.sampling.temperature == 0.0:
        raise nothing_to_draw()
    return scorer


def nothing_to_draw() -> UsageError:
    """Return the error of draws from a scheme that always gives the same answer."""
    return UsageError(
        "sample: at temperature 0 there is nothing to draw",
        hint="give a temperature (--temperature, or max_extractable of the policy), or leave sample out",
        param="sample",
    )


def draw_answers(
    scorer: DrawingScorer,
    model: str,
    snippets: Sequence[SnippetResult],
    extraction: Extraction,
    answers: int,
    seed: int,
    confidence: float,
    first: int = 0,
) -> list[SnippetResult]:
    """Return the snippets, each that is expected often enough with what so many drawn answers gave.

    Args:
        scorer: The engine.
        model: The adapter's served name.
        snippets: What was judged.
        extraction: The scheme that answers are drawn by.
        answers: How many are drawn for each snippet.
        seed: Of the draws; the same seed gives the same answers on an engine without noise.
        confidence: Of the interval that the number seen should lie in.
        first: The place of the first of these snippets among all of the audit, of which the seeds are made.

    Raises:
        ScorerError: The engine could not be reached.
    """
    return [
        _drawn(scorer, model, snippet, extraction, answers, seed_of(seed, number), confidence)
        for number, snippet in enumerate(snippets, first)
    ]


def _drawn(
    scorer: DrawingScorer,
    model: str,
    snippet: SnippetResult,
    extraction: Extraction,
    answers: int,
    seed: int,
    confidence: float,
) -> SnippetResult:
    if snippet.score is None:
        return snippet
    log_pz = sampled_log_pz(snippet.score, extraction.sampling)
    p_z = None if log_pz is None else min(1.0, math.exp(log_pz))
    if p_z is not None and answers * p_z < LEAST:
        return snippet
    prompt = (snippet.score.prefix_ids, len(snippet.score.target_ids))
    found = scorer.draw(model, prompt, answers, extraction.sampling, seed)
    return dataclasses.replace(
        snippet, drawn=count(snippet.score, snippet.item.target, found, p_z, confidence)
    )


def count(
    score: ItemScore, target: str, found: Sequence[Decoded], p_z: float | None, confidence: float
) -> Drawn:
    """Count the answers that give the target, and predict how many should.

    Args:
        score: The scores, for the target's token ids.
        target: The target.
        found: The answers.
        p_z: The target's probability under the scheme; None where it is not known.
        confidence: Of the prediction.
    """
    answers = len(found)
    return Drawn(
        answers=answers,
        seen=sum(answer.ids[: len(score.target_ids)] == score.target_ids for answer in found),
        seen_as_text=sum(answer.text.startswith(target) for answer in found),
        expected=None if p_z is None else answers * p_z,
        interval=None if p_z is None else prediction_interval(p_z, answers, confidence),
    )


def prediction_interval(p: float, answers: int, confidence: float) -> tuple[int, int]:
    """Return the exact binomial prediction interval: the count lies outside with at most 1 - confidence.

    Its ends are the quantiles at half of that, so each tail has at most half of it.
    """
    from scipy.stats import binom  # noqa: PLC0415  scipy.stats takes a second to import

    low, high = binom.interval(confidence, answers, p)
    return max(0, int(low)), int(high)


def seed_of(seed: int, number: int) -> int:
    """Return the seed of one snippet's first answer; those of two snippets have nothing in common."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
