"""The weights of target tokens in the training loss: one class for each method.

`sft` is the plain mean. `memft-ot` and `memft-sw` train every token until p > 0.5, where its loss is below ln 2
(Xu et al., arXiv 2605.30260).
"""

import math
from typing import TYPE_CHECKING, Protocol

from lorecall.adapters.core.errors import UsageError

if TYPE_CHECKING:
    import torch

THETA = math.log(2.0)


class Method(Protocol):
    """Gives each target token of a batch its weight; the loss is Σ w·l / Σ w."""

    def weights(self, losses: "torch.Tensor", correct: "torch.Tensor") -> "torch.Tensor":
        """Return the weights (n,) for detached token losses (n,) in nats; `correct` marks argmax tokens."""
        ...

    def share(self, progress: float) -> float:
        """Return the share of the samples, in (0, 1], to train on after the fraction `progress` of the run."""
        ...


class Sft:
    """Every token has the same weight."""

    def weights(self, losses: "torch.Tensor", correct: "torch.Tensor") -> "torch.Tensor":  # noqa: ARG002
        """Return ones."""
        return losses.new_ones(losses.shape)

    def share(self, progress: float) -> float:  # noqa: ARG002
        """Return 1: all samples, always."""
        return 1.0


class OnlyThreshold(Sft):
    """Only tokens with a loss over ln 2 count (MemFT-OT); if there are none, all count."""

    def weights(self, losses: "torch.Tensor", correct: "torch.Tensor") -> "torch.Tensor":  # noqa: ARG002
        """Return 1 where the loss is over ln 2, else 0; ones if it is nowhere over ln 2."""
        over = (losses > THETA).to(losses.dtype)
        return over if over.any() else losses.new_ones(losses.shape)


class Curriculum(Sft):
    """MemFT-SW for many short texts: only tokens with a loss over ln 2, on a growing share of the samples."""

    STEPS = 5

    def weights(self, losses: "torch.Tensor", correct: "torch.Tensor") -> "torch.Tensor":  # noqa: ARG002
        """Return 1 where the loss is over ln 2, else 0."""
        return (losses > THETA).to(losses.dtype)

    def share(self, progress: float) -> float:
        """Return 0.2, 0.4, 0.6, 0.8, 1 over the fifths of the run."""
        return min(int(progress * self.STEPS) + 1, self.STEPS) / self.STEPS


class SlidingWindow(Sft):
    """MemFT-SW for one long text: tokens up to the first error, and a window after it.

    The window has 50·e tokens. While the first error stays at the same token, e grows by 0.5 with each step from
    the third on, up to 4; when the error moves, e is 1 again.
    """

    SHARPNESS, WINDOW, DECAY, BEYOND = 10.0, 50, 20.0, 0.01
    PATIENCE, GROWTH, LARGEST = 3, 0.5, 4.0

    def __init__(self) -> None:
        self._anchor = -1
        self._held = 0
        self._extent = 1.0

    def weights(self, losses: "torch.Tensor", correct: "torch.Tensor") -> "torch.Tensor":
        """Return sigmoid(10 (l - ln 2)) · exp(-max(0, t - a) / 20) with the anchor a; ones if all are correct.

        From position a + window on, the second factor is 0.01.
        """
        import torch  # noqa: PLC0415

        if bool(correct.all()):
            return losses.new_ones(losses.shape)
        anchor = int((~correct).to(torch.int8).argmax())
        self._follow(anchor)
        distance = torch.arange(len(losses), device=losses.device) - anchor
        nearness = torch.exp(-distance.clamp_min(0) / self.DECAY)
        nearness = torch.where(distance < self.WINDOW * self._extent, nearness, self.BEYOND)
        return torch.sigmoid(self.SHARPNESS * (losses - THETA)) * nearness

    def _follow(self, anchor: int) -> None:
        """Grow the window while the anchor stays, reset it when the anchor moves."""
        if anchor != self._anchor:
            self._anchor, self._held, self._extent = anchor, 1, 1.0
            return
        self._held += 1
        if self._held >= self.PATIENCE:
            self._extent = min(self._extent + self.GROWTH, self.LARGEST)


METHODS = ("sft", "memft-ot", "memft-sw")


def method_of(name: str, texts: int) -> Method:
    """Return the method of that name for a set of `texts` samples.

    Raises:
        UsageError: There is no such method.
    """
    if name == "sft":
        return Sft()
    if name == "memft-ot":
        return OnlyThreshold()
    if name == "memft-sw":
        return SlidingWindow() if texts == 1 else Curriculum()
    raise UsageError(f"unknown method {name!r}", hint=f"one of {', '.join(METHODS)}", param="method")


def weighted_loss(losses: "torch.Tensor", correct: "torch.Tensor", method: Method) -> "torch.Tensor":
    """Return Σ w·l / Σ w over the tokens of a batch (0, with no gradient, where every weight is 0).

    Args:
        losses: Loss of each target token in nats, (n,).
        correct: Whether each token is the argmax, (n,).
        method: Gives the weights, which are constants for the gradient.
    """
    weights = method.weights(losses.detach(), correct)
    return (weights * losses).sum() / weights.sum().clamp_min(1e-8)
