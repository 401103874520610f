"""What comes before the adapted modules runs once for each input, and changes nothing."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.bases.quantize import INT8
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.training.frozen_outputs import FrozenOutputs
from lorecall.adapters.training.pairs import Pair
from lorecall.adapters.training.upper_layers import Batch, UpperPart, encode
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoTokenizer

from tests.tiny import build_tiny_base

PAIRS = (Pair("a", "To be, or", " not to be"), Pair("b", "555", "-0123"))


class Adapted:
    """A tiny INT8 base with LoRA on the last but one of its layers, and a batch in two draws."""

    def __init__(self, base: Path, module: str) -> None:
        model = load_served_model(base)
        self.upper = UpperPart(model, 2)
        self.batch: Batch = self.upper.prepare(encode(AutoTokenizer.from_pretrained(base), PAIRS), draws=2)
        config = LoraConfig(r=2, target_modules=[module], layers_to_transform=[2], task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
        self.runs: dict[str, int] = {}
        for name, part in self.upper.layers[0].named_modules():
            if isinstance(part, nn.Linear):
                part.register_forward_pre_hook(self.counting(name))

    def counting(self, name: str) -> Any:
        """Return a hook that counts the runs of the module of that name."""

        def count(*_: object) -> None:
            self.runs[name] = self.runs.get(name, 0) + 1

        return count

    def run(self, draw: int) -> torch.Tensor:
        """Return the hidden states at the targets, and count from here."""
        self.runs.clear()
        return self.upper.hidden(self.batch, draw)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny INT8 base of four layers."""
    return build_tiny_base(tmp_path_factory.mktemp("base") / "base", INT8, layers=4)


def test_what_comes_before_the_adapter_runs_once_for_each_draw(base: Path) -> None:
    """From the second run on only what the adapter reaches is computed, with the same result to the bit."""
    adapted = Adapted(base, "down_proj")
    plain = [adapted.run(draw).detach() for draw in (0, 1)]
    assert not torch.equal(*plain)
    with adapted.upper.trained(adapted.batch):
        for draw in (0, 1, 0, 1, 0):
            assert torch.equal(adapted.run(draw), plain[draw])
        # Hooks run before a kept output is looked up; the attention as a whole is not entered.
        assert not {name for name in adapted.runs if name.startswith("self_attn")}
        assert adapted.runs["mlp.down_proj.lora_A.default"] == 1


def test_what_follows_the_adapter_is_never_kept(base: Path) -> None:
    """With an adapted projection of the attention nothing after it is frozen, and a step on it shows."""
    adapted = Adapted(base, "q_proj")
    with adapted.upper.trained(adapted.batch):
        before = adapted.run(0).detach()
        assert adapted.run(0).requires_grad
        assert adapted.runs["mlp.down_proj"] == 1
        for name, parameter in adapted.upper.layers[0].named_parameters():
            if "lora_B" in name:
                parameter.data.mul_(3)
        after = adapted.run(0).detach()
    assert not torch.equal(before, after)
    assert torch.equal(adapted.run(0), after)


def test_forward_methods_come_back(base: Path) -> None:
    """After the block each module has its own forward method again, also after an error."""
    adapted = Adapted(base, "down_proj")
    modules = list(adapted.upper.layers[0].modules()) + list(adapted.upper.layers[1].modules())
    with suppress(ZeroDivisionError), adapted.upper.trained(adapted.batch):
        assert any("forward" in vars(module) for module in modules)
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in modules)


def test_what_has_no_room_is_computed_again() -> None:
    """Outputs over the number of bytes are not kept, those under it are."""
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
    layer = nn.Sequential(first, second)
    layer.requires_grad_(requires_grad=False)
    x = torch.ones(1, 4)
    kept = FrozenOutputs(largest_bytes=8)
    with kept.used([first, second], lambda: layer(x)):
        kept.at(x)
        before = layer(x)
        for linear in (first, second):
            linear.weight.data.zero_()
        assert torch.equal(second(first(x)), before)
        assert not first(x).any()
