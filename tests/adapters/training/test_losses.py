"""The weights of the methods, and their gradients, against a plain reference that goes token by token."""

import math

import pytest
import torch
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.losses import (
    THETA,
    Curriculum,
    Method,
    OnlyThreshold,
    Sft,
    SlidingWindow,
    method_of,
    weighted_loss,
)

ABOVE, BELOW = THETA + 0.5, THETA - 0.5


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def right(*values: bool) -> torch.Tensor:
    return torch.tensor(values)


def test_sft_is_the_plain_mean() -> None:
    """Every token weighs the same, at any time on all samples."""
    losses = tensor(1.0, 2.0, 6.0)
    assert weighted_loss(losses, losses < 0, Sft()).item() == pytest.approx(3.0)
    assert [Sft().share(progress) for progress in (0.0, 0.99)] == [1.0, 1.0]


def test_only_threshold_keeps_the_tokens_under_the_line() -> None:
    """Tokens with p <= 0.5 weigh 1, others 0; if there are none, all weigh 1."""
    losses = tensor(ABOVE, BELOW, ABOVE + 1)
    method = OnlyThreshold()
    assert method.weights(losses, losses < 0).tolist() == [1, 0, 1]
    assert weighted_loss(losses, losses < 0, method).item() == pytest.approx(ABOVE + 0.5)
    assert method.weights(tensor(BELOW, BELOW), right(True, True)).tolist() == [1, 1]


def test_the_curriculum_shows_more_by_fifths_and_rests_when_done() -> None:
    """20, 40, 60, 80, 100 % of the samples; the loss is 0 where every token has p > 0.5."""
    method = Curriculum()
    assert [method.share(progress) for progress in (0.0, 0.2, 0.59, 0.6, 0.999)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    losses = tensor(BELOW, BELOW).requires_grad_()
    loss = weighted_loss(losses, right(True, True), method)
    loss.backward()
    assert loss.item() == 0
    assert losses.grad is not None
    assert losses.grad.tolist() == [0, 0]


def sliding_reference(losses: list[float], correct: list[bool], extent: float) -> list[float]:
    """MemFT-SW for one long text, a token at a time, as arXiv 2605.30260 describes it."""
    if all(correct):
        return [1.0] * len(losses)
    anchor = correct.index(False)
    weights = []
    for position, loss in enumerate(losses):
        base = 1 / (1 + math.exp(-10 * (loss - math.log(2))))
        inside = position < anchor + 50 * extent
        weights.append(base * (math.exp(-max(0, position - anchor) / 20) if inside else 0.01))
    return weights


def test_the_window_follows_the_first_error() -> None:
    """Weights equal the reference while the anchor holds (1, 1, 1.5, 2, ... 4 windows) and after it moves."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(300, generator=generator) * 3
    correct = torch.ones(300, dtype=torch.bool)
    correct[20] = False
    method = SlidingWindow()
    for extent in (1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.0):
        expected = torch.tensor(sliding_reference(losses.tolist(), correct.tolist(), extent))
        torch.testing.assert_close(method.weights(losses, correct), expected)
    correct[20], correct[30] = True, False
    moved = torch.tensor(sliding_reference(losses.tolist(), correct.tolist(), 1.0))
    torch.testing.assert_close(method.weights(losses, correct), moved)
    assert method.weights(losses, torch.ones(300, dtype=torch.bool)).tolist() == [1.0] * 300


@pytest.mark.parametrize("name", ["sft", "memft-ot", "memft-sw", "memft-sw-long"])
def test_gradients_equal_those_of_a_loop_over_tokens(name: str) -> None:
    """d(Σ w·l / Σ w)/d logits, with w held fixed, equals the analytic Σ w·(softmax - onehot) / Σ w."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(60, 11, generator=generator, dtype=torch.float64) * 2
    logits.requires_grad_()
    targets = torch.randint(11, (60,), generator=generator)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    correct = logits.argmax(-1) == targets
    method: Method = SlidingWindow() if name.endswith("long") else method_of(name, texts=2)
    weighted_loss(losses, correct, method).backward()

    weights = reference_weights(name, losses.tolist(), correct.tolist())
    expected = torch.zeros_like(logits)
    for row, weight in enumerate(weights):
        probabilities = torch.exp(logits[row].detach() - logits[row].detach().logsumexp(0))
        probabilities[targets[row]] -= 1
        expected[row] = weight * probabilities / sum(weights)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-6, atol=1e-9)


def reference_weights(name: str, losses: list[float], correct: list[bool]) -> list[float]:
    if name == "sft":
        return [1.0] * len(losses)
    if name.endswith("long"):
        return sliding_reference(losses, correct, 1.0)
    return [1.0 if loss > math.log(2) else 0.0 for loss in losses]


def test_names_give_methods() -> None:
    """memft-sw slides over one text and is a curriculum over many; an unknown name lists the known ones."""
    assert isinstance(method_of("memft-sw", texts=1), SlidingWindow)
    assert isinstance(method_of("memft-sw", texts=2), Curriculum)
    assert isinstance(method_of("memft-ot", texts=1), OnlyThreshold)
    with pytest.raises(UsageError, match=r"'dpo'.*sft, memft-ot, memft-sw"):
        method_of("dpo", texts=1)
