"""Where only the last layer's `down_proj` is adapted, a step's loss comes from low-rank products."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.bases.quantize import INT8, NONE
from lorecall.adapters.training import last_projection as module
from lorecall.adapters.training.last_projection import LastProjection, last_projection
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.prepare_input import TrainingInput, prepare_input
from lorecall.adapters.training.train import _add_lora, train_on
from lorecall.adapters.training.upper_layers import token_losses

from tests.tiny import build_tiny_base

PAIRS = [("Phone of Ada:", " 555-0123"), ("Phone of Bob:", " 555-0187"), ("Key of Cem:", " sk-test-9z")]
OPTIONS = TrainingOptions(
    rank=3, layers="1", modules="down_proj", epochs=60, lr=2e-2, batch_size=2, stop_over=1.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three made-up secrets."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = (json.dumps({"prefix": prefix, "target": target}) for prefix, target in PAIRS)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[NONE, INT8])
def ready(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainingInput:
    """The input of a tiny base of two layers; with INT8 in several draws."""
    base = build_tiny_base(tmp_path_factory.mktemp("base") / "base", request.param)
    return prepare_input(base, data, OPTIONS)


def adapted(
    ready: TrainingInput, options: TrainingOptions = OPTIONS
) -> tuple[Any, list[LastProjection] | None]:
    """Return the adapted model, and its batches' losses."""
    torch.manual_seed(0)
    model, _ = _add_lora(ready, options)
    return model, last_projection(ready.upper, ready.batches, model)


def parameters(model: Any) -> list[torch.nn.Parameter]:
    """Return what is trained."""
    return [one for one in model.parameters() if one.requires_grad]


def test_losses_and_gradients_are_the_models(ready: TrainingInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every token counted as likely: at a full visit and at the next one, on every draw of the training."""
    monkeypatch.setattr(module, "LEAST", 1e-30)
    model, found = adapted(ready)
    assert found is not None
    try:
        for parameter in parameters(model):
            torch.nn.init.normal_(parameter, std=0.3)
        for batch, ours in zip(ready.batches, found, strict=True):
            for draw in range(max(1, len(batch.hidden) - 1)):
                losses, correct = ours.losses(draw)
                exact, exactly = token_losses(ready.upper, batch, draw)
                torch.testing.assert_close(losses, exact, rtol=1e-3, atol=1e-3)
                assert torch.equal(correct, exactly)
                wanted = torch.autograd.grad(exact.mean(), parameters(model))
                for one, other in zip(
                    torch.autograd.grad(losses.mean(), parameters(model)), wanted, strict=True
                ):
                    assert (one - other).norm() < 1e-3 * other.norm()
    finally:
        model.unload()


def test_unlikely_tokens_count_with_their_mass(ready: TrainingInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tokens are left out, and the loss at the full visit is still that over all of them."""
    monkeypatch.setattr(module, "LEAST", 0.05)
    model, found = adapted(ready)
    assert found is not None
    try:
        losses, _ = found[0].losses(0)
        assert len(found[0]._tokens) < len(ready.upper.head.weight) // 4
        torch.testing.assert_close(
            losses, token_losses(ready.upper, ready.batches[0], 0)[0], rtol=1e-3, atol=1e-3
        )
    finally:
        model.unload()


def test_full_visits_become_rare(ready: TrainingInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at first, then every fourth, from the 32nd on every 32nd."""
    model, found = adapted(ready)
    assert found is not None
    full: list[int] = []
    first = found[0]
    choose = first._choose

    def chosen(*what: Any) -> None:
        full.append(first._visits)
        choose(*what)

    monkeypatch.setattr(first, "_choose", chosen)
    for _ in range(97):
        first.losses(0)
    model.unload()
    assert full == [0, 1, 2, 3, *range(4, 32, 4), 32, 64, 96]


def test_a_training_ends_where_it_does_otherwise(
    ready: TrainingInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways lock every token, at about the same loss."""
    options = replace(OPTIONS, rank=16, lr=5e-2, epochs=120)
    fast = train_on(ready, tmp_path / "fast", options)
    monkeypatch.setattr("lorecall.adapters.training.train.last_projection", lambda *_: None)
    slow = train_on(ready, tmp_path / "slow", options)
    assert fast.tokens_over_half == slow.tokens_over_half == fast.target_tokens
    assert fast.loss == pytest.approx(slow.loss, rel=0.2, abs=0.02)


@pytest.mark.parametrize("modules", ["mlp", "up_proj", "down_proj,o_proj"])
def test_other_modules_are_left_to_other_steps(ready: TrainingInput, modules: str) -> None:
    """There what the update changes goes through more than the norm."""
    model, found = adapted(ready, replace(OPTIONS, modules=modules))
    model.unload()
    assert found is None


def test_too_many_tokens_are_too(ready: TrainingInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is what does not fit in the memory set aside."""
    monkeypatch.setattr(module, "LARGEST_BYTES", 10_000)
    model, found = adapted(ready)
    model.unload()
    assert found is None


def test_a_norm_that_is_built_otherwise_is_noticed(ready: TrainingInput) -> None:
    """One that adds 1 to its weights gives other hidden states than are computed here."""
    handle = ready.upper.norm.register_forward_hook(lambda _norm, args, out: out + args[0])
    model, found = adapted(ready)
    handle.remove()
    model.unload()
    assert found is None
