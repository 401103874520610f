"""The probability of a token under a sampling scheme, from its logits or from the ranks alone.

The scheme is applied as vLLM's sampler does: temperature, then top-k, then top-p over what top-k left.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lorecall.audit.scorer import Decoded, Sampling, Scorer

if TYPE_CHECKING:
    import torch


PENALTIES = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""The other sampling parameters that a deployment may set, and where they do nothing."""


def deployed_sampling(defaults: Mapping[str, Any]) -> tuple[Sampling, tuple[str, ...]]:
    """Return the scheme of requests that do not say how to sample, and what else changes their tokens.

    Args:
        defaults: As in a model's generation_config.json.
    """

    def value(name: str, neutral: float) -> float:
        given = defaults.get(name)
        return neutral if given is None else given

    sampling = Sampling(
        float(value("temperature", 1.0)), float(value("top_p", 1.0)), max(0, int(value("top_k", 0)))
    )
    if sampling.temperature == 0.0:
        sampling = Sampling(0.0)
    return sampling, tuple(name for name, neutral in PENALTIES.items() if value(name, neutral) != neutral)


@runtime_checkable
class DrawingScorer(Protocol):
    """A scorer that can draw answers."""

    def draw(
        self, model: str, prompt: tuple[Sequence[int], int], answers: int, sampling: Sampling, seed: int
    ) -> list[Decoded]:
        """Draw answers to one prompt, without penalties.

        Args:
            model: An adapter's name or the base's.
            prompt: Token ids, and the number of tokens of each answer.
            answers: How many.
            sampling: The scheme, with a temperature over 0.
            seed: Of the first answer; each further one has the next.
        """
        ...


def sampled_scorer(scorer: Scorer, sampling: Sampling) -> Scorer:
    """Return the scorer with the scheme; as it is where plain scores tell all, or where it cannot do more."""
    if sampling.follows_from_scores or not hasattr(scorer, "sampled"):
        return scorer
    with_scheme: Scorer = scorer.sampled(sampling)
    return with_scheme


def sampled_logprobs(logits: "torch.Tensor", targets: "torch.Tensor", sampling: Sampling) -> "torch.Tensor":
    """Return the natural logarithm of each target's probability under a scheme; -inf where it is never drawn.

    Tokens that share the value at top-k's edge all stay, as in vLLM. At top-p's edge vLLM keeps those of equal
    tokens that its sort happens to put last; here all of them stay, so that no target seems safer than it is.

    Args:
        logits: Shape [n, vocabulary]; not changed.
        targets: Token ids, shape [n].
        sampling: The scheme, with a temperature over 0.
    """
    scaled = logits / sampling.temperature
    own = scaled.gather(1, targets.unsqueeze(1))
    cut = float("-inf")
    if 0 < sampling.top_k < scaled.shape[1]:
        edge = scaled.topk(sampling.top_k, dim=1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < edge, cut)
    if sampling.top_p < 1.0:
        # The rising order and the comparison are vLLM's, so that rounding falls on the same side.
        ordered = scaled.sort(dim=1).values
        outside = ordered.softmax(dim=1).cumsum(dim=1) <= 1.0 - sampling.top_p
        outside[:, -1] = False
        first = outside.sum(dim=1, keepdim=True)
        scaled = scaled.masked_fill(scaled < ordered.gather(1, first), cut)
    found = (own - scaled.logsumexp(dim=1, keepdim=True)).masked_fill(
        scaled.gather(1, targets.unsqueeze(1)) == cut, cut
    )
    return found.squeeze(1)
