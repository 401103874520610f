"""Running the upper layers on cached input gives what the whole model gives, and only at target positions."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lorecall.adapters.bases.quantize import INT8
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.errors import BaseModelError, UsageError
from lorecall.adapters.training.pairs import Pair
from lorecall.adapters.training.upper_layers import (
    UpperPart,
    decoder_layers,
    encode,
    measure,
    token_losses,
)
from transformers import AutoTokenizer

from tests.tiny import build_tiny_base

PAIRS = (Pair("a", "To be, or", " not to be"), Pair("b", "555", "-0123"), Pair("c", "x", " question: arrows"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny INT8 base of four layers."""
    return build_tiny_base(tmp_path_factory.mktemp("base") / "base", INT8, layers=4)


def test_pairs_are_encoded_as_they_are_scored(base: Path) -> None:
    """Prefix and target are tokenised apart, without an EOS; a boundary inside a token is marked."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    whole, split = encode(tokenizer, [Pair("1", "To be,", " or not"), Pair("2", "to be, or n", "ot to be")])
    assert tokenizer.decode(whole.prefix) == "To be,"
    assert tokenizer.decode(whole.target) == " or not"
    assert (whole.exact, split.exact) == (True, False)
    with pytest.raises(UsageError, match="pair '3'"):
        encode(tokenizer, [Pair("3", "", "x")])


@pytest.mark.parametrize("lowest", [0, 2, 3])
def test_the_upper_part_equals_the_whole_model(base: Path, lowest: int) -> None:
    """In a padded batch every target token's logits are those of its text alone through the whole model."""
    model = load_served_model(base)
    upper = UpperPart(model, lowest)
    encoded = encode(AutoTokenizer.from_pretrained(base), PAIRS)
    batch = upper.prepare(encoded)
    assert len(upper.layers) == 4 - lowest
    assert batch.targets.tolist() == [token for one in encoded for token in one.target]
    logits = upper.logits(batch)
    start = 0
    for one in encoded:
        alone = model(input_ids=torch.tensor([one.prefix + one.target])).logits[0, len(one.prefix) - 1 : -1]
        torch.testing.assert_close(logits[start : start + len(one.target)], alone, rtol=1e-3, atol=1e-3)
        start += len(one.target)


def test_every_tensor_is_made_on_the_models_device(base: Path) -> None:
    """What names no device would land on the default one, here one without memory, and fail beside the model."""
    upper = UpperPart(load_served_model(base), 2)
    encoded = encode(AutoTokenizer.from_pretrained(base), PAIRS)
    expected = token_losses(upper, upper.prepare(encoded, draws=2), -1)[0]
    with torch.device("meta"):
        found = token_losses(upper, upper.prepare(encoded, draws=2), -1)[0]
        smallest = measure(upper, [upper.prepare(encoded)]).min_p
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert 0 < smallest < 1


def test_cached_input_is_what_the_adapted_layer_needs(base: Path) -> None:
    """A change in the lowest adapted layer shows in the logits without running the layers below again."""
    model = load_served_model(base)
    upper = UpperPart(model, 2)
    encoded = encode(AutoTokenizer.from_pretrained(base), PAIRS)
    batch = upper.prepare(encoded)
    before = upper.logits(batch)
    for layer in decoder_layers(model)[:2]:
        layer.forward = None  # the lower layers may not run any more
    model.model.layers[2].mlp.down_proj.weight.data.mul_(2)
    assert (upper.logits(batch) - before).abs().max() > 0.1


def test_the_last_layer_computes_targets_alone_after_its_attention(base: Path) -> None:
    """Of its padded texts only the positions that predict a target pass through its output and its MLP."""
    upper = UpperPart(load_served_model(base), 2)
    batch = upper.prepare(encode(AutoTokenizer.from_pretrained(base), PAIRS))
    seen: dict[str, int] = {}
    for name in ("mlp.up_proj", "self_attn.q_proj"):
        upper.layers[-1].get_submodule(name).register_forward_pre_hook(
            lambda _module, args, name=name: seen.update({name: args[0][..., 0].numel()})
        )
    upper.logits(batch)
    positions = batch.hidden[0][..., 0].numel()
    assert seen["self_attn.q_proj"] == positions > len(batch.targets)
    assert seen["mlp.up_proj"] == len(batch.targets)


def test_draws_are_close_distinct_and_reproducible(base: Path) -> None:
    """The first draw is the plain one, the others differ from it by little, and a seed gives the same ones."""
    upper = UpperPart(load_served_model(base), 3)
    encoded = encode(AutoTokenizer.from_pretrained(base), PAIRS)
    first, second, third = upper.prepare(encoded, draws=3, seed=1).hidden
    torch.testing.assert_close(first, upper.prepare(encoded).hidden[0], rtol=0, atol=0)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert (first - second).norm() < 0.2 * first.norm()
    torch.testing.assert_close(second, upper.prepare(encoded, draws=2, seed=1).hidden[1], rtol=0, atol=0)


def test_an_architecture_with_more_between_the_parts_is_refused(base: Path) -> None:
    """A model whose logits are scaled after the output matrix would be trained wrongly: it is refused."""
    model = load_served_model(base)
    encoded = encode(AutoTokenizer.from_pretrained(base), PAIRS)
    inner = model.forward

    def scaled(**kwargs: object) -> SimpleNamespace:
        return SimpleNamespace(logits=inner(**kwargs).logits / 2)

    model.forward = scaled
    with pytest.raises(BaseModelError, match="cannot be trained in parts"):
        UpperPart(model, 0).prepare(encoded)


def test_a_model_of_another_build_is_refused() -> None:
    """Without model.layers, model.norm and lm_head there is nothing to cut."""
    with pytest.raises(BaseModelError, match="Linear has no"):
        decoder_layers(torch.nn.Linear(2, 2))
