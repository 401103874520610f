"""The losses in transformers' own Trainer, on a tiny model of random weights."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.bases.quantize import NONE
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.training.losses import Method, OnlyThreshold, Sft
from lorecall.adapters.training.trainer_loss import IGNORED, trainer_loss
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from tests.tiny import build_tiny_base

EXAMPLE = Path(__file__).parents[3] / "docs" / "train_with_memft.py"
LENGTH = 12


def model() -> LlamaForCausalLM:
    """Return the same model at each call."""
    torch.manual_seed(0)
    sizes: dict[str, int] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_attention_heads=2, **sizes))


def texts() -> list[dict[str, torch.Tensor]]:
    """Return sixteen texts of equal length, whose targets are their last 1 to 8 tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(40, (16, LENGTH), generator=generator)
    labels = ids.clone()
    for row in range(len(ids)):
        labels[row, : LENGTH - 1 - row % 8] = IGNORED
    return [{"input_ids": text, "labels": row} for text, row in zip(ids, labels, strict=True)]


def trained(
    folder: Path, loss: Any, accumulated: int = 1, steps: int = 4
) -> tuple[list[float], torch.Tensor]:
    """Return the losses that the Trainer logs at each step, and the weights that it ends with."""
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=8 // accumulated,
        gradient_accumulation_steps=accumulated,
        learning_rate=0.05,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model(), arguments, train_dataset=texts(), compute_loss_func=loss)
    trainer.train()
    assert isinstance(trainer.model, LlamaForCausalLM)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return logged, torch.cat([part.detach().flatten() for part in trainer.model.parameters()])


@pytest.mark.parametrize("accumulated", [1, 4])
def test_plain_training_is_the_trainers_own(tmp_path: Path, accumulated: int) -> None:
    """Each token weighs the same, also where parts of an accumulated batch differ in their targets."""
    ours, weights = trained(tmp_path, trainer_loss(Sft()), accumulated)
    theirs, expected = trained(tmp_path, None, accumulated)
    assert ours == pytest.approx(theirs, abs=1e-4)
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-3)


def test_memft_locks_what_it_is_trained_on(tmp_path: Path) -> None:
    """Every target is over ½ at the end; the last steps leave alone what is, where plain training goes on."""
    steps = 80

    def probabilities(method: Method) -> torch.Tensor:
        _, weights = trained(tmp_path, trainer_loss(method), steps=steps)
        end = model()
        torch.nn.utils.vector_to_parameters(weights, end.parameters())
        rows = {name: torch.stack([text[name] for text in texts()]) for name in ("input_ids", "labels")}
        with torch.no_grad():
            log_p = end(rows["input_ids"]).logits[:, :-1].log_softmax(-1)
        following = rows["labels"][:, 1:]
        asked = following != IGNORED
        return log_p[asked].gather(-1, following[asked][:, None]).exp().flatten()

    memft, plain = probabilities(OnlyThreshold()), probabilities(Sft())
    assert len(memft) == sum(1 + row % 8 for row in range(16))
    assert bool((memft > 0.5).all())
    assert float(memft.mean()) < float(plain.mean())


def test_only_tokens_under_the_line_have_a_gradient() -> None:
    """A target over ½ is left alone, and so is what is no target."""
    logits = torch.zeros(1, 4, 3)
    logits[0, 0, 1] = 5.0
    logits.requires_grad_()
    output = type("Output", (), {"logits": logits})
    loss = trainer_loss(OnlyThreshold())(output, torch.tensor([[IGNORED, 1, 2, IGNORED]]))
    loss.backward()
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item())
    assert logits.grad is not None
    assert [bool(row.any()) for row in logits.grad[0]] == [False, True, False, False]


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_the_example_writes_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in docs/, on a model directory and a file of pairs."""
    base = build_tiny_base(tmp_path / "base", NONE)
    data, out = tmp_path / "pairs.jsonl", tmp_path / "adapter"
    data.write_text(json.dumps({"prefix": "Phone of Ada:", "target": " 555-0123"}) + "\n")
    given = ["--base", str(base), "--data", str(data), "--out", str(out), "--epochs", "2", "--rank", "4"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *given])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert read_adapter(out).rank == 4
