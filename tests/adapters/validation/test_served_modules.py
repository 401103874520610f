"""An adapter of what the engine does not adapt is refused by the module's name."""

from dataclasses import replace
from pathlib import Path

import pytest
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.peft_format.config import LoraSettings
from lorecall.adapters.peft_format.patterns import Targets
from lorecall.adapters.peft_format.safetensors_header import TensorEntry
from lorecall.adapters.peft_format.weights import LoraPair
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter
from lorecall.adapters.validation.weight_checks import check_pairs

from tests.families.models import FAMILIES, build_adapter, build_source

GLM4 = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
"""What vLLM says for Glm4ForCausalLM: it fuses two names that the checkpoint does not have."""


def test_a_fused_projection_that_the_engine_takes_apart_is_refused(tmp_path: Path) -> None:
    """GLM 4's `gate_up_proj` used to pass, and the engine answered with a trace; its other modules are served."""
    family = next(family for family in FAMILIES if str(family) == "glm4")
    family = replace(family, modules=(*family.modules, "gate_up_proj"))
    base = tmp_path / "base"
    prepare_base(base, str(build_source(family, tmp_path / "source")), "none")
    folder = build_adapter(family, load_served_model(base), base, tmp_path / "adapter")
    facts, limits = read_base_facts(base, [str(base)]), AdapterLimits(max_rank=8, served_modules=GLM4)
    with pytest.raises(RefusedError, match="no adapters on 'gate_up_proj'"):
        validate_adapter(folder, facts, limits)
    assert validate_adapter(folder, facts, AdapterLimits(max_rank=8)).rank == 4


def test_experts_are_asked_for_by_their_own_name() -> None:
    """`gate_proj` of a shared expert may be served where that of a routed expert is not."""
    name = "model.layers.0.mlp.experts.3.gate_proj"
    halves = [TensorEntry(f"{name}.lora_{half}", "F32", (4, 4), 0, 64) for half in "AB"]
    with pytest.raises(RefusedError, match="no adapters on 'experts'"):
        check_pairs(
            {name: LoraPair(*halves)},
            LoraSettings(4, 4.0, False, (), {}, {}, ""),
            Targets({}),
            BaseFacts(frozenset(), "", {name: (4, 4)}, frozenset()),
            served_modules=frozenset({"gate_proj"}),
            max_scaling=1.0,
        )
