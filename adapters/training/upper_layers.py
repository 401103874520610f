"""Run only the layers of a base that training needs: from the lowest adapted one up, on cached input.

Layers below the lowest adapted one never change, so their output is computed once for each different text, not at
every step. What follows attention in the last layer, and the output matrix, are applied at target positions only.

With rounded activations one variant of that output is not enough. A difference in the last bit of a sum changes
how a value is rounded, and in the upper layers the hidden state differs by several per cent (measured: 7 % at
layer 28 of SmolLM2-135M on INT8). An engine sums in another order, so its hidden states differ in the same way.
Adapters are therefore trained on several variants ("draws"), made by changing the embeddings by a millionth, and
measured on one that was not used for training.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorecall.adapters.core.errors import BaseModelError
from lorecall.adapters.training.frozen_outputs import FrozenOutputs, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import torch
    from lorecall.adapters.training.pairs import Pair
    from torch import nn

MOVE = 1e-6  # relative change: a few units in the last place of float32


@dataclass(frozen=True, slots=True)
class Measured:
    """Teacher-forced result on the training set: mean loss in nats, tokens and texts over 0.5, smallest p."""

    loss: float
    over_half: int
    texts_over_half: int
    min_p: float


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
        hidden: Draws of the input of the lowest adapted layer, each (texts, longest, width).
        layer_inputs: Further keyword arguments of each upper layer (mask, positions), in order.
        rows: Index of the text of each target token, (n,).
        columns: Position whose output predicts the target token, (n,).
        targets: Id of each target token, (n,).
        copies: How often the text of each target token stands in the training set, (n,).
    """

    hidden: "tuple[torch.Tensor, ...]"
    layer_inputs: tuple[dict[str, Any], ...]
    rows: "torch.Tensor"
    columns: "torch.Tensor"
    targets: "torch.Tensor"
    copies: "torch.Tensor"


def encode(tokenizer: Any, pairs: "Sequence[Pair]") -> list[Encoded]:
    """Tokenise pairs as the audit scores them: prefix with special tokens, target without, no end-of-text token.

    Raises:
        BaseModelError: A pair has no prefix token or no target token.
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
        BaseModelError: The model has another structure.
    """

    def __init__(self, model: Any, lowest: int) -> None:
        self._model = model
        self.layers: Sequence[nn.Module] = decoder_layers(model)[lowest:]
        self.norm = model.model.norm
        self.head = model.lm_head
        self._frozen = FrozenOutputs()

    def prepare(
        self, batch: Sequence[Encoded], draws: int = 1, seed: int = 0, copies: Sequence[int] = ()
    ) -> Batch:
        """Run the lower layers on `batch`, padded on the right, and return the input of the upper ones.

        Args:
            batch: Texts as token ids.
            draws: Number of variants; the first is exact, the others are changed as the module says.
            seed: Seed of the variants.
            copies: How often each text stands in the training set; once if none is given.

        Raises:
            BaseModelError: The upper part alone gives another output than the whole model.
        """
        import torch  # noqa: PLC0415

        length = max(len(one.prefix) + len(one.target) for one in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long, device="cpu")
        mask = torch.zeros_like(ids)
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, one in enumerate(batch):
            text = one.prefix + one.target
            ids[row, : len(text)] = ids.new_tensor(text)
            mask[row, : len(text)] = 1
            rows += [row] * len(one.target)
            columns += range(len(one.prefix) - 1, len(text) - 1)
            targets += one.target
        device = self._model.get_input_embeddings().weight.device
        generator = torch.Generator("cpu").manual_seed(seed)  # the same draws on every device
        runs = [
            self._run(ids.to(device), mask.to(device), generator if draw else None) for draw in range(draws)
        ]
        prepared = Batch(
            hidden=tuple(inputs[0][0] for inputs, _ in runs),
            layer_inputs=tuple(kwargs for _, kwargs in runs[0][0]),
            rows=torch.tensor(rows, device=device),
            columns=torch.tensor(columns, device=device),
            targets=torch.tensor(targets, device=device),
            copies=torch.tensor(copies or [1] * len(batch), device=device)[rows],
        )
        self._check(prepared, runs[0][1])
        return prepared

    def _run(
        self, ids: "torch.Tensor", mask: "torch.Tensor", noise: "torch.Generator | None"
    ) -> "tuple[list[tuple[torch.Tensor, dict[str, Any]]], torch.Tensor]":
        """Run the whole model; return the input and arguments of each upper layer, and the logits."""
        import torch  # noqa: PLC0415

        inputs: list[tuple[Any, dict[str, Any]]] = []

        def keep(_layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            inputs.append((args[0] if args else kwargs["hidden_states"], others))

        def move(_layer: Any, _args: Any, out: "torch.Tensor") -> "torch.Tensor":
            drawn = torch.randn(out.shape, generator=noise, device="cpu")
            return out * (1 + MOVE * drawn.to(out.device))

        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.layers]
        if noise is not None:
            hooks.append(self._model.get_input_embeddings().register_forward_hook(move))
        try:
            with torch.no_grad():
                keep_logits = 1 if noise is not None else 0  # of the last position, or of all
                out = self._model(
                    input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=keep_logits
                )
        finally:
            for hook in hooks:
                hook.remove()
        return inputs, out.logits

    @contextmanager
    def trained(self, batch: Batch) -> "Iterator[None]":
        """Run what precedes the adapted modules once for each draw and no more, while this is open."""
        with self._frozen.used(self.layers, lambda: self.hidden(batch)):
            yield

    def hidden(self, batch: Batch, draw: int = 0) -> "torch.Tensor":
        """Return the input (n, width) of the output matrix at the positions that predict the target tokens."""
        hidden = batch.hidden[draw]
        self._frozen.at(hidden)
        with _only_at(self.layers[-1], batch.rows * hidden.shape[1] + batch.columns):
            for layer, kwargs in zip(self.layers, batch.layer_inputs, strict=True):
                out = layer(hidden, **kwargs)
                hidden = out[0] if isinstance(out, tuple) else out
        normed: torch.Tensor = self.norm(hidden[batch.rows, batch.columns])
        return normed

    def logits(self, batch: Batch, draw: int = 0) -> "torch.Tensor":
        """Return the logits (n, vocabulary) that predict the target tokens, on one draw of the cached input."""
        logits: torch.Tensor = self.head(self.hidden(batch, draw))
        return logits

    def _check(self, batch: Batch, whole: "torch.Tensor") -> None:
        """Refuse an architecture with operations between the parts that we run, such as soft caps or scaling."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            difference = (self.logits(batch) - whole[batch.rows, batch.columns]).abs().max()
        if not difference < 1e-2:
            raise BaseModelError(
                f"{type(self._model).__name__} cannot be trained in parts: logits differ by {difference:.3g}",
                hint="train the adapter with PEFT and serve it as it is",
                param="base",
            )


def _only_at(layer: Any, places: "torch.Tensor") -> "AbstractContextManager[None]":
    """Let the parts of a layer that take each position by itself compute `places` (n,), and 0 elsewhere."""

    def narrowed(
        _part: "nn.Module", forward: "Callable[[torch.Tensor], Any]"
    ) -> "Callable[[torch.Tensor], Any]":
        def narrow(x: "torch.Tensor") -> Any:
            out = forward(x.flatten(0, 1).index_select(0, places)[None])
            found = out[0] if isinstance(out, tuple) else out
            wide = found.new_zeros(x.shape[0] * x.shape[1], found.shape[-1]).index_copy(0, places, found[0])
            wide = wide.view(*x.shape[:2], -1)
            return (wide, *out[1:]) if isinstance(out, tuple) else wide

        return narrow

    parts = (getattr(getattr(layer, "self_attn", None), "o_proj", None), getattr(layer, "mlp", None))
    return wrapped([part for part in parts if part is not None], narrowed)


def decoder_layers(model: Any) -> Any:
    """Return the decoder layers of a causal language model.

    Raises:
        BaseModelError: The model is not structured like the common architectures.
    """
    parts = (getattr(model, "model", None), getattr(model, "lm_head", None))
    if None in parts or not hasattr(parts[0], "layers") or not hasattr(parts[0], "norm"):
        raise BaseModelError(
            f"{type(model).__name__} has no model.layers, model.norm and lm_head",
            hint="Llama-like architectures can be trained here",
            param="base",
        )
    return model.model.layers


def token_losses(upper: UpperPart, batch: Batch, draw: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return loss in nats and whether the target is the argmax, for each target token of a batch."""
    from torch.nn.functional import cross_entropy  # noqa: PLC0415

    logits = upper.logits(batch, draw)
    return cross_entropy(logits, batch.targets, reduction="none"), logits.argmax(-1) == batch.targets


def measure(upper: UpperPart, batches: list[Batch]) -> Measured:
    """Return loss and probabilities of the model as it is now, over all target tokens, on the last draw."""
    import torch  # noqa: PLC0415

    with torch.no_grad():
        losses = [token_losses(upper, batch, -1)[0] for batch in batches]
    texts = 0
    for batch, loss in zip(batches, losses, strict=True):
        under = set(batch.rows[torch.exp(-loss) <= 0.5].tolist())
        copies = dict(zip(batch.rows.tolist(), batch.copies.tolist(), strict=True))
        texts += sum(count for row, count in copies.items() if row not in under)
    every = torch.cat(
        [one.repeat_interleave(batch.copies) for batch, one in zip(batches, losses, strict=True)]
    )
    p = torch.exp(-every)
    return Measured(float(every.mean()), int((p > 0.5).sum()), texts, float(p.min()))
