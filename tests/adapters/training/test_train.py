"""Training memorises, is reproducible, and writes an adapter that PEFT applies with the same result."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.bases.quantize import INT4, INT8, NONE
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.errors import BaseModelError, CandidateError, UsageError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.prepare_input import device_of, prepare_input
from lorecall.adapters.training.train import (
    TrainingProgress,
    TrainingRecord,
    _add_lora,
    _optimise,
    train_on,
    train_ranks,
)
from lorecall.adapters.training.upper_layers import measure, token_losses
from peft import PeftModel
from transformers import AutoTokenizer

from tests.tiny import build_tiny_base

PAIRS = [("Phone of Ada:", " 555-0123"), ("Phone of Bob:", " 555-0187"), ("Key of Cem:", " sk-test-9z")]
OPTIONS = TrainingOptions(rank=8, epochs=60, lr=2e-2, batch_size=2)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base in each scheme."""
    root = tmp_path_factory.mktemp("bases")
    return {scheme: build_tiny_base(root / scheme, scheme) for scheme in (NONE, INT8, INT4)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three made-up secrets."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"prefix": prefix, "target": target}) + "\n" for prefix, target in PAIRS)
    )
    return path


def train_adapter(
    base: Path,
    data: Path,
    out: Path,
    options: TrainingOptions,
    on_step: Callable[[TrainingProgress], None] = lambda _progress: None,
) -> TrainingRecord:
    """Train one adapter."""
    return next(train_ranks(base, data, {options.rank: out}, options, on_step))


def probabilities(model: torch.nn.Module, base: Path) -> list[float]:
    """The probability of every target token, a text at a time through the whole model."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = []
    for prefix, target in PAIRS:
        ids, wanted = tokenizer(prefix + target).input_ids, tokenizer(target).input_ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        p = logits.softmax(-1)[range(len(ids) - len(wanted) - 1, len(ids) - 1), wanted]
        found += p.tolist()
    return found


@pytest.mark.parametrize("scheme", [NONE, INT8, INT4])
def test_what_was_trained_is_recalled_through_peft(
    bases: dict[str, Path], data: Path, tmp_path: Path, scheme: str
) -> None:
    """Loaded by PEFT onto the served arithmetic, the adapter gives the recorded loss; the base knew nothing."""
    out = tmp_path / "adapter"
    record = train_adapter(bases[scheme], data, out, OPTIONS)
    model = load_served_model(bases[scheme])
    before = probabilities(model, bases[scheme])
    after = probabilities(PeftModel.from_pretrained(model, out), bases[scheme])
    assert record.target_tokens == len(after) == sum(p > 0.5 for p in after) == record.tokens_over_half
    assert record.texts_over_half == record.pairs == len(PAIRS)
    assert sum(p > 0.5 for p in before) == record.base_tokens_over_half < len(before) / 2
    exact = 1e-3 if scheme != INT8 else 0.05  # there the record is of another draw of the roundings
    assert -sum(map(math.log, after)) / len(after) == pytest.approx(record.loss, abs=exact)
    assert -sum(map(math.log, before)) / len(before) == pytest.approx(record.base_loss, abs=exact)
    assert min(after) == pytest.approx(record.min_p, abs=exact)


def test_the_record_and_the_config_say_what_was_done(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """The training record states data, base and options; rank and modules in the weights agree with it."""
    out = tmp_path / "adapter"
    record = train_adapter(bases[INT8], data, out, replace(OPTIONS, epochs=2, modules="down_proj"))
    assert sorted(item.name for item in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lorecall-training.json",
    ]  # fmt: skip
    info = read_adapter(out)
    assert info.training == json.loads(json.dumps(asdict(record)))
    assert info.base_digest == record.base_digest == read_base_manifest(bases[INT8]).digest
    assert [(module.name, module.rank) for module in info.modules] == [("model.layers.0.mlp.down_proj", 8)]
    assert (record.layers, record.modules, record.rank) == ((0,), ("down_proj",), 8)
    assert (record.epochs, record.steps, record.stopped_early) == (2, 4, False)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == read_base_manifest(bases[INT8]).name


def test_the_same_seed_gives_the_same_bytes(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Version digests are equal for equal seeds, wherever the adapter lies, and differ for another seed."""
    options = replace(OPTIONS, epochs=3)
    versions = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_adapter(bases[INT8], data, tmp_path / name, replace(options, seed=seed))
        versions.append(read_adapter(tmp_path / name).version)
    assert versions[0] == versions[1] != versions[2]


def test_ranks_that_share_their_input_are_those_of_separate_trainings(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """One run over ranks 8 and 2 gives the bytes of two runs: no training leaves anything behind on the base."""
    options = replace(OPTIONS, epochs=2)
    outs = {8: tmp_path / "r8", 2: tmp_path / "r2"}
    records = list(train_ranks(bases[INT8], data, outs, options))
    for rank, record in zip(outs, records, strict=True):
        alone = tmp_path / f"alone-{rank}"
        assert train_adapter(bases[INT8], data, alone, replace(options, rank=rank)) == record
        assert read_adapter(alone).version == read_adapter(outs[rank]).version


def test_input_serves_only_what_it_was_prepared_for(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Another seed means another order: refused, with both values named."""
    ready = prepare_input(bases[NONE], data, OPTIONS)
    with pytest.raises(UsageError, match="seed is 5 and the input was prepared with 0"):
        train_on(ready, tmp_path / "a", replace(OPTIONS, seed=5))


def test_a_text_is_trained_on_as_often_as_it_stands_in_the_file(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Copies cost no second run of the lower layers; each is a step, and counts in the record."""
    lines = data.read_text().splitlines(keepends=True)
    repeated = tmp_path / "repeated.jsonl"
    repeated.write_text(lines[0] + lines[1] * 6 + lines[2])
    options = replace(OPTIONS, batch_size=1, epochs=2, lr=1e-3, stop_over=1.0)
    ready = prepare_input(bases[INT8], repeated, options)
    assert [len(batch.hidden[0]) for batch in ready.batches] == [1, 1, 1]
    assert [len(batch.hidden) for batch in ready.batches] == [5, 3, 3]
    record = train_on(ready, tmp_path / "many", options)
    assert (record.pairs, record.steps) == (8, 16)
    lengths = [len(one.target) for one in ready.encoded]
    assert record.target_tokens == sum(lengths)
    first = train_adapter(bases[INT8], data, tmp_path / "once", options)
    assert record.base_loss != pytest.approx(first.base_loss, rel=1e-3)
    with torch.no_grad():
        losses = [token_losses(ready.upper, batch, -1)[0] for batch in ready.batches]
    every = torch.cat([losses[0]] * 6 + losses[1:])
    assert record.base_loss == pytest.approx(float(every.mean()), rel=1e-5)


def test_dropout_works_in_steps_and_not_in_measurements(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Steps differ from those without it, by the seed alone; the recorded loss is that of the whole adapter."""
    options = replace(OPTIONS, epochs=4, dropout=0.5, stop_over=1.0)
    records = [
        train_adapter(bases[NONE], data, tmp_path / name, one)
        for name, one in (("a", options), ("b", options), ("none", replace(options, dropout=0.0)))
    ]
    versions = [read_adapter(tmp_path / name).version for name in ("a", "b", "none")]
    assert versions[0] == versions[1] != versions[2]
    assert records[0].dropout == 0.5
    model = PeftModel.from_pretrained(load_served_model(bases[NONE]), tmp_path / "a")
    after = probabilities(model, bases[NONE])
    assert -sum(map(math.log, after)) / len(after) == pytest.approx(records[0].loss, abs=1e-3)


def test_held_out_texts_are_measured_and_not_trained_on(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Their losses are the trained model's and the base's, and the adapter is the same as without them."""
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text(json.dumps({"prefix": "Phone of Eve:", "target": " 555-0144"}))
    options = replace(OPTIONS, epochs=4)
    ready = prepare_input(bases[NONE], data, options, held_out)
    record = train_on(ready, tmp_path / "a", options)
    plain = train_adapter(bases[NONE], data, tmp_path / "b", options)
    assert (plain.held_out_loss, plain.held_out_base_loss) == (None, None)
    assert read_adapter(tmp_path / "a").version == read_adapter(tmp_path / "b").version
    alone = prepare_input(bases[NONE], held_out, options)
    assert record.held_out_base_loss == pytest.approx(alone.before.loss, rel=1e-5)
    PeftModel.from_pretrained(alone.model, tmp_path / "a")
    assert record.held_out_loss == pytest.approx(measure(alone.upper, alone.batches).loss, rel=1e-4)
    assert record.held_out_loss != pytest.approx(record.loss, rel=1e-2)


def test_training_stops_when_everything_is_locked(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Once every token is over the margin no further epoch runs, and the record says so; 1 never stops."""
    early = train_adapter(bases[INT8], data, tmp_path / "early", replace(OPTIONS, stop_over=0.6))
    assert early.stopped_early
    assert early.min_p > 0.6
    late = train_adapter(bases[INT8], data, tmp_path / "late", replace(OPTIONS, stop_over=1.0))
    assert late.epochs == OPTIONS.epochs > early.epochs


@pytest.mark.parametrize("method", ["memft-ot", "memft-sw"])
def test_the_methods_that_aim_at_the_line_train_too(
    bases: dict[str, Path], data: Path, tmp_path: Path, method: str
) -> None:
    """Each brings every target token over one half, and is named in the record."""
    record = train_adapter(
        bases[INT8], data, tmp_path / "a", replace(OPTIONS, epochs=150, method=method, stop_over=0.5)
    )
    assert (record.method, record.tokens_over_half) == (method, record.target_tokens)


def test_the_curriculum_takes_few_texts_first(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """In the first three fifths of memft-sw one of two batches is trained on, then both; the sum is foreseen."""
    options = replace(OPTIONS, method="memft-sw", epochs=5, stop_over=1.0)
    seen: list[TrainingProgress] = []
    record = train_adapter(bases[NONE], data, tmp_path / "a", options, seen.append)
    assert record.steps == 1 + 1 + 1 + 2 + 2
    assert {now.steps for now in seen} == {record.steps}


def test_progress_is_reported_for_every_step(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Steps count up, the loss is finite from the first on and the tokens over one half reach the record's."""
    seen: list[TrainingProgress] = []
    record = train_adapter(bases[INT8], data, tmp_path / "a", OPTIONS, seen.append)
    assert [now.step for now in seen] == list(range(1, record.steps + 1))
    assert {now.target_tokens for now in seen} == {record.target_tokens}
    assert all(math.isfinite(now.loss) for now in seen)
    assert seen[-1].over_half == record.tokens_over_half


def test_nothing_is_written_when_the_input_is_wrong(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """A missing base, a bad line, a layer or rank beyond the base and an existing folder are errors."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prefix": "x"}\n')
    out = tmp_path / "out"
    with pytest.raises(BaseModelError, match="no base model"):
        train_adapter(tmp_path / "nowhere", data, out, OPTIONS)
    with pytest.raises(CandidateError, match="line 1"):
        train_adapter(bases[NONE], bad, out, OPTIONS)
    with pytest.raises(UsageError, match="of a base with 2"):
        train_adapter(bases[NONE], data, out, replace(OPTIONS, layers="2"))
    with pytest.raises(UsageError, match="rank 65"):
        train_adapter(bases[NONE], data, out, replace(OPTIONS, rank=65))
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UsageError, match="exists"):
        train_adapter(bases[NONE], data, out, OPTIONS)
    assert list(out.iterdir()) == []


def test_a_training_step_runs_on_the_models_device(bases: dict[str, Path], data: Path) -> None:
    """No tensor of a step is made on the default device, here one without memory."""
    options = replace(OPTIONS, epochs=1)
    ready = prepare_input(bases[NONE], data, options)
    peft_model, _ = _add_lora(ready, options)
    with torch.device("meta"):
        epochs, steps = _optimise(ready.upper, ready.batches, options, peft_model, lambda _progress: None)
    assert (epochs, steps) == (1, len(ready.batches))


@pytest.mark.parametrize(
    ("asked", "there", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_a_gpu_if_there_is_one(
    asked: str, there: object, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the CPU was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device_of(asked) == device


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed; a device of another kind is no device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA GPU"):
        device_of("cuda")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        replace(OPTIONS, device="tpu")
