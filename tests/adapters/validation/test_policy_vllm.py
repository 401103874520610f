"""vLLM loads what passes validation, with the ranks and scales that were checked."""

import dataclasses
import json
from pathlib import Path

import pytest
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.peft_format.adapter import open_adapter
from lorecall.adapters.peft_format.files import CONFIG_FILE
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts
from lorecall.adapters.validation.config_checks import INERT, UNSUPPORTED
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter
from lorecall.server.engine.common import rank_patterns

from tests.adapters import spoiling

peft_helper = pytest.importorskip("vllm.lora.peft_helper", reason="needs vLLM: pip install lorecall[cpu]")
lora_model = pytest.importorskip("vllm.lora.lora_model")
lora_config = pytest.importorskip("vllm.config.lora")

MODULES = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"})
LIMITS = AdapterLimits(max_rank=64, served_modules=MODULES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base_facts(spoiling.write_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return spoiling.write_adapter(tmp_path / "adapter")


def load_in_vllm(path: Path) -> dict[str, tuple[int, float]]:
    """Load an adapter as vLLM's worker does; rank and scale by module."""
    helper = peft_helper.PEFTHelper.from_local_dir(str(path), None)
    helper.validate_legal(lora_config.LoRAConfig(max_lora_rank=64))
    load = lora_model.LoRAModel.from_local_checkpoint
    model = load(str(path), set(MODULES), helper, lora_model_id=1, device="cpu")
    for weights in model.loras.values():
        assert weights.lora_a.shape[0] == weights.lora_b.shape[1] == weights.rank
    return {name: (weights.rank, weights.scaling) for name, weights in model.loras.items()}


@pytest.mark.parametrize(
    "spoil",
    [
        spoiling.setting(),
        spoiling.setting(use_rslora=True, lora_alpha=7.5),
        spoiling.setting(
            rank_pattern={"layers.1.self_attn.q_proj": 4, "q_proj": 4}, alpha_pattern={"q_proj": 3}
        ),
        spoiling.setting(alpha_pattern={".*layers.0.*": 64, "down_proj": 2, "proj": 5}),
        spoiling.setting(alpha_pattern={"(q_proj|down_proj)": 2}, use_rslora=True),
    ],
)
def test_ranks_and_scales_are_vllms(spoil: spoiling.Spoiler, adapter: Path, base: BaseFacts) -> None:
    """An accepted adapter is taken by vLLM, which gives each module the very rank and scale that was checked."""
    spoil(adapter)
    info = validate_adapter(adapter, base, LIMITS)
    with open_adapter(adapter) as files:
        settings = files.settings
    loaded = load_in_vllm(adapter)
    assert loaded.keys() == {module.name for module in info.modules}
    for module, (rank, scale) in loaded.items():
        assert rank == settings.rank_of(module)
        assert scale == pytest.approx(settings.scaling_of(module))


def test_every_setting_that_vllm_reads_is_known() -> None:
    """What vLLM looks at in a configuration is either inert here or refused; `vllm_*` fields are its own."""
    read = {
        field.name
        for field in dataclasses.fields(peft_helper.PEFTHelper)
        if not field.name.startswith("vllm_")
    }
    assert read <= INERT | UNSUPPORTED.keys()


def test_random_settings_are_judged_alike(adapter: Path, base: BaseFacts) -> None:
    """No single setting, turned on, passes here and fails in vLLM."""
    plain = json.loads((adapter / CONFIG_FILE).read_text())
    for field in dataclasses.fields(peft_helper.PEFTHelper):
        for value in (True, 1, "all", ["lm_head"], {"q_proj": 4}, [[0, 1]]):
            (adapter / CONFIG_FILE).write_text(json.dumps(plain | {field.name: value}))
            try:
                validate_adapter(adapter, base, LIMITS)
            except RefusedError:
                continue
            load_in_vllm(adapter)


def test_a_pattern_for_every_module_is_matched_as_vllm_does() -> None:
    """What our plugin puts in the place of vLLM's matching gives what vLLM's own gives."""
    names = [f"model.layers.{n}.{name}" for n in range(12) for name in ("q_proj", "mlp.up_proj")]
    patterns = {name: n for n, name in enumerate(names)} | {".*up_proj": 99, "layers.1": 98}
    original = peft_helper.PEFTHelper.__dict__["_match_pattern"]
    try:
        expected = [
            peft_helper.PEFTHelper._match_pattern(patterns, name) for name in [*names, "x.up_proj", "y"]
        ]
        rank_patterns.apply()
        found = [peft_helper.PEFTHelper._match_pattern(patterns, name) for name in [*names, "x.up_proj", "y"]]
    finally:
        peft_helper.PEFTHelper._match_pattern = original
    assert found == expected
