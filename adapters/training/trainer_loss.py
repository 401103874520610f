"""MemFT as the loss of transformers' Trainer, of which TRL's SFTTrainer is one: their `compute_loss_func`."""

from typing import TYPE_CHECKING, Any

from lorecall.adapters.training.losses import Method, weighted_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

IGNORED = -100
"""The label of a token that is no target."""


def trainer_loss(method: Method) -> "Callable[..., torch.Tensor]":
    """Return a `compute_loss_func` that weighs target tokens as `method` says.

        Trainer(model, arguments, compute_loss_func=trainer_loss(OnlyThreshold()), ...)

    With `Sft()` it is the Trainer's own loss. Where gradients are accumulated, each part of a batch counts by its
    target tokens. `SlidingWindow` is for one text, a batch of it alone; the growing share of the samples that
    `Curriculum` asks for is not a matter of the loss, and is left to the data loader.

    Args:
        method: Gives the weights.
    """

    def compute_loss(
        outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None
    ) -> "torch.Tensor":
        """Return the loss of logits (texts, length, vocabulary) on labels (texts, length)."""
        from torch.nn.functional import cross_entropy  # noqa: PLC0415

        following = labels[..., 1:]
        targets = following != IGNORED
        logits, tokens = outputs.logits[..., :-1, :][targets].float(), following[targets]
        losses = cross_entropy(logits, tokens, reduction="none")
        loss = weighted_loss(losses, logits.argmax(-1) == tokens, method)
        return loss if num_items_in_batch is None else loss * len(tokens) / num_items_in_batch

    return compute_loss
