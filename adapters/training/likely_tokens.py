"""The loss of a training step over the tokens of the vocabulary that have any probability.

The output matrix is most of a step: 49,152 rows for SmolLM2, of which some thousands have a probability worth a
gradient. All are computed at a batch's full visits. At the others those are left out that had less than `LEAST`
everywhere in the batch; their mass together stays as it was. Results are measured with the whole vocabulary.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from lorecall.adapters.training.upper_layers import Batch, UpperPart

LEAST = 1e-6
FIRST, EVERY = 4, 4  # full visits: the first four, then every fourth


class LikelyTokens:
    """One batch's likely tokens, chosen anew at its full visits.

    Args:
        upper: The layers that a step runs.
        batch: The batch.
    """

    def __init__(self, upper: "UpperPart", batch: "Batch") -> None:
        self._upper = upper
        self._batch = batch
        self._visits = 0

    def losses(self, draw: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return loss in nats and whether the target is the argmax, for each target token, on one draw.

        Losses have the gradient of the likely tokens alone.
        """
        import torch  # noqa: PLC0415

        hidden = self._upper.hidden(self._batch, draw)
        if self._visits < FIRST or self._visits % EVERY == 0:
            self._choose(hidden.detach())
        self._visits += 1
        head = self._upper.head  # rows are taken anew: those of all batches would fill the memory
        bias = None if head.bias is None else head.bias[self._tokens]
        rows = head.weight.index_select(0, self._tokens)  # five times as fast on a CPU as weight[tokens]
        logits = torch.nn.functional.linear(hidden, rows, bias)
        mass = torch.logaddexp(logits.logsumexp(-1), self._others_mass)
        losses = mass - logits.gather(1, self._targets[:, None])[:, 0]
        return losses, logits.argmax(-1) == self._targets

    def _choose(self, hidden: "torch.Tensor") -> None:
        """Choose the likely tokens, and note the mass of all others."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            logits = self._upper.head(hidden)  # (n, vocabulary): each pass over it takes its time
            top = logits.amax(-1, keepdim=True)
            weights = logits.sub_(top).exp_()
            likely = (weights > LEAST * weights.sum(-1, keepdim=True)).any(0)
            likely[self._batch.targets] = True
            self._tokens = likely.nonzero()[:, 0]
            self._targets = torch.searchsorted(self._tokens, self._batch.targets)
            self._others_mass = (weights @ (~likely).to(weights.dtype)).log() + top[:, 0]
