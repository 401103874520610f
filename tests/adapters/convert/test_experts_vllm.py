"""vLLM loads and packs the LoRAs of experts that a conversion makes, with the change that PEFT merges."""

from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.convert.convert import convert_adapter

from tests.adapters.convert.test_experts import BOTH, FAMILIES, adapted
from tests.families.models import build_source

peft_helper = pytest.importorskip("vllm.lora.peft_helper", reason="needs vLLM: pip install lorecall[cpu]")
lora_model = pytest.importorskip("vllm.lora.lora_model")
lora_weights = pytest.importorskip("vllm.lora.lora_weights")

PROJECTIONS = {"qwen3_moe": ("gate_proj", "down_proj", "up_proj"), "mixtral": ("w1", "w2", "w3")}
"""In the order in which vLLM packs them."""


@pytest.mark.parametrize("family", PROJECTIONS)
@pytest.mark.parametrize("parameters", [BOTH, ["gate_up_proj"], ["down_proj"]], ids="-".join)
def test_vllm_packs_the_result(family: str, parameters: list[str], tmp_path: Path) -> None:
    """It wants every projection of every expert, with one rank and one scale for each."""
    base = tmp_path / "base"
    prepare_base(base, str(build_source(FAMILIES[family], tmp_path / "source")), "none")
    expected = adapted(base, tmp_path / "fused", parameters, alpha_pattern={"down_proj": 3})
    convert_adapter(tmp_path / "fused", tmp_path / "out", base=base)
    names = [f"experts.{expert}.{name}" for expert in range(4) for name in PROJECTIONS[family]]
    helper = peft_helper.PEFTHelper.from_local_dir(str(tmp_path / "out"), None)
    load = lora_model.LoRAModel.from_local_checkpoint
    loras = load(str(tmp_path / "out"), set(names), helper, lora_model_id=1, device="cpu").loras
    assert expected.keys() <= loras.keys()
    for mixture in {name.partition(".experts.")[0] for name in loras}:
        packed = lora_weights.PackedLoRALayerWeights.pack_moe(
            [loras[f"{mixture}.{name}"] for name in names], f"{mixture}.experts"
        )
        for slot, name in enumerate(PROJECTIONS[family]):
            deltas = packed.scaling[slot] * packed.lora_b[slot] @ packed.lora_a[slot]
            for expert, delta in enumerate(deltas):
                merged = expected.get(f"{mixture}.experts.{expert}.{name}", torch.zeros_like(delta))
                torch.testing.assert_close(delta, merged, rtol=1e-4, atol=1e-5)
