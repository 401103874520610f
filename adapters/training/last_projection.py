"""The losses of training steps where LoRA adapts the last layer's `down_proj` alone.

There the final norm gets R + B A x, in which R and x are frozen. With z = A x and the norm's weights g, the
logits are (R (g W)^T + z (g W B)^T) / rms(R + B z): the first product does not change, and the second has the
rank as its inner dimension, not the model's width. As in `likely_tokens`, visits between the full ones leave out
unlikely tokens; here also those stay in that were likely at the full visit before.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from lorecall.adapters.training.upper_layers import Batch, UpperPart

LEAST = 3e-5
FIRST, EVERY, OFTEN, RARELY = 4, 4, 32, 32
"""Full visits: the first four, then every fourth, and of those from `OFTEN` on every 32nd."""
LARGEST_BYTES = 1 << 30
"""Of all batches' R (g W)^T, (n, vocabulary); with more, steps run as elsewhere."""
SAME = 1e-3


def last_projection(
    upper: "UpperPart", batches: "list[Batch]", peft_model: Any
) -> "list[LastProjection] | None":
    """Return the losses of each batch; None if other modules are adapted, or the model is built otherwise.

    Args:
        upper: The layers that a step runs.
        batches: The batches.
        peft_model: The model with its LoRA as it begins, B = 0.
    """
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415

    adapted = [module for module in peft_model.modules() if isinstance(module, LoraLayer)]
    last = getattr(getattr(upper.layers[-1], "mlp", None), "down_proj", None)
    norm = hasattr(upper.norm, "weight") and hasattr(upper.norm, "variance_epsilon")
    rows = sum(len(batch.targets) * max(1, len(batch.hidden) - 1) for batch in batches)
    fits = 4 * rows * len(upper.head.weight) <= LARGEST_BYTES
    if adapted != [last] or not norm or upper.head.bias is not None or not fits:
        return None
    found = [LastProjection(upper, batch, last) for batch in batches]
    return found if found[0].agrees() else None


class LastProjection:
    """One batch's losses.

    Args:
        upper: The layers that a step runs.
        batch: The batch.
        lora: The adapted projection, with B = 0.
    """

    def __init__(self, upper: "UpperPart", batch: "Batch", lora: Any) -> None:
        self._upper, self._batch = upper, batch
        self._dropout = lora.lora_dropout["default"]
        self._a, self._b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
        self._scaling = lora.scaling["default"]
        self._inputs = [self._frozen(draw, lora) for draw in range(max(1, len(batch.hidden) - 1))]
        self._frozen_kept: dict[int, torch.Tensor] = {}
        self._visits = 0
        self._before: torch.Tensor | None = None

    def _frozen(self, draw: int, lora: Any) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the projection's input x (n, d_in) and the norm's input R (n, width) at the target tokens."""
        import torch  # noqa: PLC0415

        seen: list[torch.Tensor] = []
        hooks = [
            part.register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach()))
            for part in (lora, self._upper.norm)
        ]
        try:
            with torch.no_grad():
                self._upper.hidden(self._batch, draw)
        finally:
            for hook in hooks:
                hook.remove()
        x, residual = seen
        return x.reshape(-1, x.shape[-1]), residual

    def agrees(self) -> bool:
        """Whether the loss is that of the model, with an update that is not zero."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            before = self._b.clone()
            self._b.copy_(torch.linspace(-1, 1, before.numel(), device=before.device).view_as(before))
            hidden = self._normed(self._moved(0), 0)
            same = (hidden - self._upper.hidden(self._batch)).abs().max() < SAME
            self._b.copy_(before)
        return bool(same)

    def losses(self, draw: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return loss in nats and whether the target is the argmax, for each target token, on one draw.

        Losses have the gradient of the likely tokens alone.
        """
        import torch  # noqa: PLC0415

        z = self._moved(draw)
        if self._visits < FIRST or self._visits % (EVERY if self._visits < OFTEN else RARELY) == 0:
            self._choose(z.detach(), draw)
        self._visits += 1
        if draw not in self._likely:  # of each draw and choice once
            self._likely[draw] = self._frozen_logits(draw).index_select(1, self._tokens)
        logits = (self._likely[draw] + z @ (self._rows @ self._b).T) * self._inverse_rms(z, draw)
        mass = torch.logaddexp(logits.logsumexp(-1), self._others_mass)
        losses = mass - logits.gather(1, self._targets[:, None])[:, 0]
        return losses, logits.argmax(-1) == self._targets

    def _moved(self, draw: int) -> "torch.Tensor":
        """Return z (n, rank)."""
        z: torch.Tensor = self._dropout(self._inputs[draw][0]) @ self._a.T * self._scaling
        return z

    def _inverse_rms(self, z: "torch.Tensor", draw: int) -> "torch.Tensor":
        """Return 1 / rms of the norm's input, (n, 1)."""
        hidden = self._inputs[draw][1] + z @ self._b.T
        inverse: torch.Tensor = (
            hidden.pow(2).mean(-1, keepdim=True) + self._upper.norm.variance_epsilon
        ).rsqrt()
        return inverse

    def _normed(self, z: "torch.Tensor", draw: int) -> "torch.Tensor":
        """Return the input (n, width) of the output matrix."""
        hidden = self._inputs[draw][1] + z @ self._b.T
        normed: torch.Tensor = hidden * self._inverse_rms(z, draw) * self._upper.norm.weight
        return normed

    def _frozen_logits(self, draw: int) -> "torch.Tensor":
        """Return R (g W)^T, (n, vocabulary)."""
        if draw not in self._frozen_kept:
            weighted = self._inputs[draw][1] * self._upper.norm.weight
            self._frozen_kept[draw] = weighted @ self._upper.head.weight.T
        return self._frozen_kept[draw]

    def _choose(self, z: "torch.Tensor", draw: int) -> None:
        """Choose the likely tokens, and note the mass of all others."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            update = self._upper.head.weight @ (self._upper.norm.weight[:, None] * self._b)
            logits = torch.addmm(self._frozen_logits(draw), z, update.T).mul_(self._inverse_rms(z, draw))
            mass = logits.logsumexp(-1)
            now = (logits > (mass + math.log(LEAST))[:, None]).any(0)
            now[self._batch.targets] = True
            likely = now if self._before is None else now | self._before
            self._before = now
            self._tokens = likely.nonzero()[:, 0]
            self._rows = self._upper.head.weight.index_select(0, self._tokens) * self._upper.norm.weight
            self._targets = torch.searchsorted(self._tokens, self._batch.targets)
            share = (logits[:, self._tokens].logsumexp(-1) - mass).exp()
            self._others_mass = mass + (1 - share).clamp_min(1e-7).log()
            self._likely: dict[int, torch.Tensor] = {}
