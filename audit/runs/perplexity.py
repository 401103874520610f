"""What a text costs a model, window by window, through any `Scorer`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.scorer import ScoreItem, Scorer


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a text: exp of the mean negative log-probability of its target tokens, and their number."""

    value: float
    tokens: int


def perplexity(scorer: Scorer, model: str, windows: Sequence[ScoreItem]) -> Perplexity:
    """Measure the perplexity of a text that was cut into windows, each target given its prefix.

    Args:
        scorer: The engine.
        model: A served name.
        windows: The text; `audit.inputs` cuts it so that each word is in one target.

    Raises:
        CandidateError: A window could not be scored: the figure would be of another text.
        ScorerError: The engine could not be reached.
    """
    scores = scorer.score(model, windows)
    failed = [score for score in scores if score.error]
    if failed:
        raise CandidateError(
            f"{len(failed)} of {len(scores)} windows of the retained text cannot be scored: {failed[0].error}",
            param="retained",
        )
    logprobs = [value for score in scores for value in score.logprob]
    if not logprobs:
        raise CandidateError("the retained text has no tokens to score", param="retained")
    return Perplexity(math.exp(-math.fsum(logprobs) / len(logprobs)), len(logprobs))
