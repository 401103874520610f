"""Weaker copies of an adapter: the maths against dense references, the directories against PEFT."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.adapters.derive.weaken import Dose, Kind, squared_norm, truncate, write_dose
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter
from peft import PeftModel
from safetensors.torch import load_file

from tests.tiny import build_tiny_adapter, build_tiny_base

RANK = 6
MODULES = ("q_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 6 with alpha 12 and a scale of its own on one module: none of that may be lost."""
    path = build_tiny_adapter(tmp_path_factory.mktemp("adapter"), base, rank=RANK, seed=1, modules=MODULES)
    file = path / CONFIG_FILE
    config = json.loads(file.read_text()) | {"lora_alpha": 12, "alpha_pattern": {"layers.1.mlp.down_proj": 3}}
    file.write_text(json.dumps(config))
    (path / TRAINING_FILE).write_text(json.dumps({"base_digest": "", "loss": 0.25}))
    return path


def updates(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to each adapted weight."""
    model = PeftModel.from_pretrained(load_served_model(base), adapter)
    modules = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    return {name: module.get_delta_weight("default").detach() for name, module in modules.items()}


@given(st.integers(1, 6), st.integers(6, 12), st.integers(6, 12), st.integers(0, 10_000), st.floats(0.1, 4.0))
def test_a_truncation_is_the_best_of_its_rank(
    r: int, d_in: int, d_out: int, seed: int, scaling: float
) -> None:
    """Eckart-Young: no matrix of that rank is nearer, and the distance is the root of the squares cut off."""
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(r, d_in, generator=random, dtype=torch.float64)
    b = torch.randn(d_out, r, generator=random, dtype=torch.float64)
    whole = scaling * b @ a
    u, s, vh = torch.linalg.svd(whole, full_matrices=False)
    for rank in range(1, r + 2):
        new_a, new_b = truncate(a, b, scaling, rank)
        assert (new_a.shape, new_b.shape) == ((rank, d_in), (d_out, rank))
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        error = float(torch.linalg.matrix_norm(whole - new_b @ new_a))
        assert error == pytest.approx(float(torch.linalg.matrix_norm(whole - best)), abs=1e-9)
        assert error == pytest.approx(float(s[rank:].square().sum().sqrt()), abs=1e-9)
        assert torch.linalg.matrix_rank(new_b @ new_a, rtol=1e-9) <= rank


def test_the_norm_of_a_product_needs_no_product() -> None:
    """The trace of (B'B)(AA') is the squared Frobenius norm of BA."""
    a, b = torch.randn(3, 7), torch.randn(5, 3)
    assert squared_norm(a, b) == pytest.approx(float((b @ a).double().square().sum()), rel=1e-5)


def test_a_scale_multiplies_every_update(base: Path, adapter: Path, tmp_path: Path) -> None:
    """PEFT adds half of what it added before, in every module, and the energy left is a quarter."""
    derived = write_dose(adapter, Dose(Kind.SCALE, 0.5), tmp_path / "half")
    before, after = updates(base, adapter), updates(base, tmp_path / "half")
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[name], 0.5 * before[name], atol=1e-6) for name in before)
    assert derived.energy == pytest.approx(0.25)


def test_rank_r_cut_to_r_is_the_same_product(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Nothing is cut, so PEFT adds what it added before, whatever alpha and its patterns were."""
    derived = write_dose(adapter, Dose(Kind.RANK, RANK), tmp_path / "same")
    before, after = updates(base, adapter), updates(base, tmp_path / "same")
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)
    assert derived.energy == pytest.approx(1.0)


def test_a_lower_rank_is_a_smaller_adapter_of_the_best_product(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    """Rank and parameters are the new ones, and each update is the truncated decomposition of the old one."""
    derived = write_dose(adapter, Dose(Kind.RANK, 2), tmp_path / "two")
    info, parent = read_adapter(tmp_path / "two"), read_adapter(adapter)
    assert (info.rank, info.effective_parameters) == (2, parent.effective_parameters // 3)
    left = whole = 0.0
    before, after = updates(base, adapter), updates(base, tmp_path / "two")
    for name, update in before.items():
        u, s, vh = torch.linalg.svd(update.double(), full_matrices=False)
        assert torch.allclose(after[name].double(), (u[:, :2] * s[:2]) @ vh[:2], atol=1e-5)
        left, whole = left + float(s[:2].square().sum()), whole + float(s.square().sum())
    assert derived.energy == pytest.approx(left / whole, rel=1e-4)


@pytest.mark.parametrize("dose", [Dose(Kind.SCALE, 0.75), Dose(Kind.RANK, 3)])
def test_a_copy_passes_validation_and_says_how_it_was_made(
    base: Path, adapter: Path, tmp_path: Path, dose: Dose
) -> None:
    """It is a plain PEFT LoRA; its training record states the original and the dose, and no loss of its own."""
    write_dose(adapter, dose, tmp_path / "copy")
    validate_adapter(tmp_path / "copy", read_base_facts(base, [str(base)]), AdapterLimits(max_rank=RANK))
    training = read_adapter(tmp_path / "copy").training
    made = training["mitigation"]
    assert (made["kind"], made["value"]) == (dose.kind, dose.value)
    assert made["parent"] == read_adapter(adapter).version
    assert made["parent_training"]["loss"] == 0.25
    assert "loss" not in training


def test_the_weights_keep_their_type_and_the_bytes_are_the_same_each_time(
    adapter: Path, tmp_path: Path
) -> None:
    """The same dose of the same adapter is the same version."""
    for name in ("one", "two"):
        write_dose(adapter, Dose(Kind.RANK, 3), tmp_path / name)
    assert read_adapter(tmp_path / "one").version == read_adapter(tmp_path / "two").version
    old, new = load_file(adapter / WEIGHTS_FILE), load_file(tmp_path / "one" / WEIGHTS_FILE)
    assert {t.dtype for t in new.values()} == {t.dtype for t in old.values()}


@pytest.mark.parametrize(("kind", "value"), [(Kind.SCALE, 0.0), (Kind.SCALE, float("nan")), (Kind.RANK, 1.5)])
def test_what_is_no_dose_is_refused(kind: Kind, value: float) -> None:
    """Nothing, not a number, and half a rank."""
    with pytest.raises(UsageError, match="no dose"):
        Dose(kind, value)


def test_what_cannot_be_made_weaker_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    """A rank over the adapter's own, and an adapter of the embeddings; one of the head is made weaker."""
    with pytest.raises(AdapterError, match="has rank 6, which is under 8"):
        write_dose(adapter, Dose(Kind.RANK, 8), tmp_path / "more")
    head = build_tiny_adapter(tmp_path / "head", base, modules=("lm_head",))
    write_dose(head, Dose(Kind.SCALE, 0.5), tmp_path / "half")
    name = "base_model.model.lm_head.lora_B.weight"
    half, whole = (load_file(one / WEIGHTS_FILE)[name] for one in (tmp_path / "half", head))
    torch.testing.assert_close(2 * half, whole)
    embedded = build_tiny_adapter(tmp_path / "embedded", base, modules=("embed_tokens",))
    with pytest.raises(AdapterError, match=r"adapts the embedding model\.embed_tokens"):
        write_dose(embedded, Dose(Kind.SCALE, 0.5), tmp_path / "none")
    assert not (tmp_path / "more").exists()
