"""The loss over the likely tokens is the loss over all of them, at a part of the work."""

from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.quantize import NONE
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.training.likely_tokens import EVERY, FIRST, LEAST, LikelyTokens
from lorecall.adapters.training.pairs import Pair
from lorecall.adapters.training.upper_layers import Batch, UpperPart, encode, token_losses
from transformers import AutoTokenizer

from tests.tiny import build_tiny_base

PAIRS = (Pair("a", "To be, or", " not to be"), Pair("b", "555", "-0123"), Pair("c", "x", " question: arrows"))


@pytest.fixture
def trained(tmp_path: Path) -> tuple[UpperPart, Batch]:
    """A tiny base whose last layer may be trained, its output sharper than random weights give, and a batch."""
    base = build_tiny_base(tmp_path / "base", NONE, layers=2)
    model = load_served_model(base)
    model.lm_head.weight.data.mul_(6)
    upper = UpperPart(model, 1)
    upper.layers[0].mlp.down_proj.weight.requires_grad_()
    return upper, upper.prepare(encode(AutoTokenizer.from_pretrained(base), PAIRS))


def gradient(upper: UpperPart, losses: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the mean loss for the trained weight."""
    weight = upper.layers[0].mlp.down_proj.weight
    (found,) = torch.autograd.grad(losses.mean(), weight)
    return found


def test_a_full_visit_gives_the_loss_over_the_whole_vocabulary(trained: tuple[UpperPart, Batch]) -> None:
    """Losses are equal, and the gradient up to the tokens that are left out."""
    upper, batch = trained
    likely = LikelyTokens(upper, batch)
    losses, correct = likely.losses(0)
    exact, exactly = token_losses(upper, batch, 0)
    assert len(likely._tokens) < len(upper.head.weight) * 3 // 4
    torch.testing.assert_close(losses, exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct, exactly)
    found, wanted = gradient(upper, losses), gradient(upper, exact)
    assert (found - wanted).norm() < 1e-3 * wanted.norm()


def test_what_becomes_likely_is_seen_at_the_next_full_visit(trained: tuple[UpperPart, Batch]) -> None:
    """A token that was left out and has most of the mass now counts with its old mass until then."""
    upper, batch = trained
    likely = LikelyTokens(upper, batch)
    for _ in range(FIRST):
        before, _ = likely.losses(0)
    with torch.no_grad():
        logits = upper.logits(batch)
        shares = logits.log_softmax(-1).amax(0).exp()
        left_out = int((shares < LEAST).nonzero()[0])
        hidden = upper.hidden(batch)
        upper.head.weight.data[left_out] = 100 * hidden.mean(0) / hidden.mean(0).norm()
    assert float((token_losses(upper, batch, 0)[0] - before).detach().max()) > 1
    losses = [likely.losses(0)[0] for _ in range(EVERY)]
    torch.testing.assert_close(losses[0], token_losses(upper, batch, 0)[0])  # visit FIRST is a full one
    torch.testing.assert_close(losses[-1], losses[0])


def test_a_batch_keeps_no_rows_of_the_output_matrix(trained: tuple[UpperPart, Batch]) -> None:
    """Between visits it holds numbers of tokens and of targets alone: a training set has thousands of batches."""
    upper, batch = trained
    likely = LikelyTokens(upper, batch)
    likely.losses(0)
    kept = sum(one.nbytes for one in vars(likely).values() if isinstance(one, torch.Tensor))
    assert kept <= 8 * (len(likely._tokens) + 2 * len(batch.targets))
