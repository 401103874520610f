"""The part of a base that training has to compute: from the lowest adapted layer up, on cached input.

Layers below the lowest adapted one never change, so their output is computed once for each batch; the output
matrix is applied at target positions only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorecall.adapters.errors import BaseModelError

if TYPE_CHECKING:
    import torch
    from lorecall.adapters.dataset import Pair
    from torch import nn


@dataclass(frozen=True, slots=True)
class Encoded:
    """A pair as token ids; `exact` if tok(prefix) + tok(target) is tok(prefix + target)."""

    prefix: tuple[int, ...]
    target: tuple[int, ...]
    exact: bool


@dataclass(frozen=True)
class Batch:
    """One batch, ready for the upper layers.

    Attributes:
        hidden: Input of the lowest adapted layer, (texts, longest, width).
        layer_inputs: Further keyword arguments of each upper layer (mask, positions), in order.
        rows: Text of each target token, (n,).
        columns: Position whose output predicts the target token, (n,).
        targets: Id of each target token, (n,).
    """

    hidden: "torch.Tensor"
    layer_inputs: tuple[dict[str, Any], ...]
    rows: "torch.Tensor"
    columns: "torch.Tensor"
    targets: "torch.Tensor"


def encode(tokenizer: Any, pairs: "Sequence[Pair]") -> list[Encoded]:
    """Tokenise pairs as they will be scored: prefix with the tokenizer's special tokens, target without, no EOS.

    Raises:
        BaseModelError: The tokenizer gives a pair no prefix or no target token.
    """
    encoded = []
    for pair in pairs:
        prefix = tuple(tokenizer(pair.prefix).input_ids)
        target = tuple(tokenizer(pair.target, add_special_tokens=False).input_ids)
        if not prefix or not target:
            raise BaseModelError(f"pair {pair.id!r} has no prefix or no target tokens", param="data")
        exact = prefix + target == tuple(tokenizer(pair.prefix + pair.target).input_ids)
        encoded.append(Encoded(prefix, target, exact))
    return encoded


class UpperPart:
    """The layers of a causal language model from `lowest` up, its final norm and its output matrix.

    Args:
        model: A transformers causal language model with `model.layers`, `model.norm` and `lm_head`.
        lowest: Index of the lowest layer to run at every step.

    Raises:
        BaseModelError: The model is not built like that.
    """

    def __init__(self, model: Any, lowest: int) -> None:
        self._model = model
        self.layers: Sequence[nn.Module] = decoder_layers(model)[lowest:]
        self.norm = model.model.norm
        self.head = model.lm_head

    def prepare(self, batch: Sequence[Encoded]) -> Batch:
        """Run the lower layers once on `batch`, padded on the right, and keep what the upper ones need.

        Raises:
            BaseModelError: The upper part alone does not give the whole model's output.
        """
        import torch  # noqa: PLC0415

        length = max(len(one.prefix) + len(one.target) for one in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        mask = torch.zeros(len(batch), length, dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, one in enumerate(batch):
            text = one.prefix + one.target
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
            rows += [row] * len(one.target)
            columns += range(len(one.prefix) - 1, len(text) - 1)
            targets += one.target
        inputs: list[tuple[Any, dict[str, Any]]] = []
        hooks = [
            layer.register_forward_pre_hook(
                lambda _layer, args, kwargs: inputs.append(
                    (args[0] if args else kwargs["hidden_states"], kwargs)
                ),
                with_kwargs=True,
            )
            for layer in self.layers
        ]
        with torch.no_grad():
            try:
                whole = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            finally:
                for hook in hooks:
                    hook.remove()
        prepared = Batch(
            hidden=inputs[0][0],
            layer_inputs=tuple(
                {k: v for k, v in kwargs.items() if k != "hidden_states"} for _, kwargs in inputs
            ),
            rows=torch.tensor(rows),
            columns=torch.tensor(columns),
            targets=torch.tensor(targets),
        )
        self._check(prepared, whole)
        return prepared

    def logits(self, batch: Batch) -> "torch.Tensor":
        """Return the logits (n, vocabulary) that predict the target tokens of a batch."""
        hidden = batch.hidden
        for layer, kwargs in zip(self.layers, batch.layer_inputs, strict=True):
            out = layer(hidden, **kwargs)
            hidden = out[0] if isinstance(out, tuple) else out
        logits: torch.Tensor = self.head(self.norm(hidden[batch.rows, batch.columns]))
        return logits

    def _check(self, batch: Batch, whole: "torch.Tensor") -> None:
        """Refuse an architecture that does something between the parts that we run (soft caps, scaling)."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            difference = (self.logits(batch) - whole[batch.rows, batch.columns]).abs().max()
        if not difference < 1e-2:
            raise BaseModelError(
                f"{type(self._model).__name__} cannot be trained in parts: logits differ by {difference:.3g}",
                hint="train the adapter with PEFT and serve it as it is",
                param="base",
            )


def decoder_layers(model: Any) -> Any:
    """Return the decoder layers of a causal language model.

    Raises:
        BaseModelError: They are not where the common architectures have them.
    """
    parts = (getattr(model, "model", None), getattr(model, "lm_head", None))
    if None in parts or not hasattr(parts[0], "layers") or not hasattr(parts[0], "norm"):
        raise BaseModelError(
            f"{type(model).__name__} has no model.layers, model.norm and lm_head",
            hint="Llama-like architectures can be trained here",
            param="base",
        )
    return model.model.layers
