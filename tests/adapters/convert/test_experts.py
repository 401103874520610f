"""LoRAs of fused experts become one of each expert, with the change of the weights that PEFT merges."""

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.convert.convert import convert_adapter
from lorecall.adapters.core.refusals import Reason, RefusedError
from lorecall.adapters.peft_format.adapter import open_adapter
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter
from safetensors.torch import load_file

from tests.adapters.people import PREFIX, Change, both, keep, load, save
from tests.adapters.spoiling import setting
from tests.families.models import DELTA, EXPERTS, Family, build_source
from tests.families.models import FAMILIES as ALL

BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
FAMILIES = {
    "qwen3_moe": Family("qwen3_moe", EXPERTS),
    "mixtral": Family("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": Family("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": Family("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 64}),
}
SPARSE = {"moe_intermediate_size": 64, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
GROUPS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
LATENT = {"kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
CONV = {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"], "block_dim": 64, "conv_dim": 64}
OTHERS = {
    "qwen3_next": {**EXPERTS, **DELTA, "num_hidden_layers": 4},
    "glm4_moe": {**SPARSE, **GROUPS},
    "deepseek_v3": {**SPARSE, **GROUPS, **LATENT, "q_lora_rank": None, "head_dim": None},
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 64,
        "moe_num_shared_experts": 0,
    },
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "minimax": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "lfm2_moe": {**EXPERTS, **CONV, "conv_dim_out": 64},
}
"""Families with dense layers before, other names of layers, latent attention or recurrent layers."""
Deltas = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A prepared base of each family."""
    work, made = tmp_path_factory.mktemp("experts"), {}
    for name, family in FAMILIES.items():
        prepare_base(work / name, str(build_source(family, work / f"{name}-source")), "none")
        made[name] = work / name
    return made


def adapted(base: Path, folder: Path, parameters: list[str], **more: Any) -> Deltas:
    """Save a random adapter of parameters; return what PEFT adds to each weight that the base stores."""
    model = load_served_model(base)
    settings: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": [], **more}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it looks for the ranks of parameters among modules, and applies them
        tuned = peft.get_peft_model(model, peft.LoraConfig(target_parameters=parameters, **settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    tuned.save_pretrained(folder)
    setting(base_model_name_or_path=str(base))(folder)
    merged = folder.with_name(f"{folder.name}-merged")
    tuned.merge_and_unload().save_pretrained(merged)
    before, after = (load_file(one / "model.safetensors") for one in (base, merged))
    assert before.keys() == after.keys()
    return {
        name.removesuffix(".weight"): after[name] - before[name]
        for name in before
        if not torch.equal(before[name], after[name])
    }


def plain(folder: Path) -> Deltas:
    """What the result adds to each weight: s B A of each pair."""
    tensors = load_file(folder / WEIGHTS_FILE)
    with open_adapter(folder, trusted=True) as files:
        return {
            module: files.settings.scaling_of(module) * tensors[pair.b.name] @ tensors[pair.a.name]
            for module, pair in files.lora.pairs.items()
        }


def assert_same(found: Deltas, expected: Deltas) -> None:
    """Each weight changes as expected, and those not named do not."""
    assert expected.keys() <= found.keys()
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected.get(name, torch.zeros_like(delta)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("parameters", "more"),
    [
        (BOTH, {}),
        (["gate_up_proj"], {}),
        (["experts.down_proj"], {"use_rslora": True}),
        (BOTH, {"target_modules": ["q_proj", "o_proj"], "r": 2}),
        (BOTH, {"rank_pattern": {"gate_up_proj": 6}, "alpha_pattern": {"down_proj": 3}}),
        ([*BOTH, "mlp.gate.weight"], {}),
    ],
    ids=["both", "gate and up", "down", "attention, too", "ranks and scales", "router"],
)
def test_each_expert_changes_as_peft_merges_it(
    family: str, parameters: list[str], more: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    """Every projection of every expert, with one rank and one scale over all of them; validation takes it."""
    expected = adapted(bases[family], tmp_path / "fused", parameters, **more)
    result = convert_adapter(tmp_path / "fused", tmp_path / "out", base=bases[family])
    found = plain(tmp_path / "out")
    assert_same(found, expected)
    experts = [name for name in found if ".experts." in name]
    assert len(experts) == 2 * 4 * 3  # layers, experts, projections
    tensors = load(tmp_path / "out")
    assert len({tensors[f"{PREFIX}{name}.lora_A.weight"].shape[0] for name in experts}) == 1
    facts = read_base_facts(bases[family])
    assert validate_adapter(tmp_path / "out", facts, AdapterLimits(max_rank=8)).rank == result.rank


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_keep_their_experts_likewise(family: str, tmp_path: Path) -> None:
    """Their names are looked up in the base, whatever the model calls them in transformers."""
    base = tmp_path / "base"
    prepare_base(base, str(build_source(Family(family, OTHERS[family]), tmp_path / "source")), "none")
    expected = adapted(base, tmp_path / "fused", ["experts.gate_up_proj", "experts.down_proj"])
    convert_adapter(tmp_path / "fused", tmp_path / "out", base=base)
    assert plain(tmp_path / "out").keys() == expected.keys()
    assert_same(plain(tmp_path / "out"), expected)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_peft_reads_the_result_back(family: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """It fuses experts that are saved one by one, for a model of fused experts: the logits are the same."""
    adapted(bases[family], tmp_path / "fused", BOTH, target_modules=["q_proj"])
    convert_adapter(tmp_path / "fused", tmp_path / "out", base=bases[family])
    found = [logits(bases[family], tmp_path / folder) for folder in ("fused", "out")]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert (found[0] - logits(bases[family])).abs().max() > 0.1


def logits(base: Path, folder: Path | None = None) -> torch.Tensor:
    """The logits of a fixed prompt, with an adapter as PEFT applies it."""
    model = load_served_model(base)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = model if folder is None else peft.PeftModel.from_pretrained(model, folder)
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits
    return found


GRANITE = Family("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2})


@pytest.mark.parametrize(
    "family", [GRANITE, *(one for one in ALL if str(one) in {"gpt_oss", "llama4 multimodal"})], ids=str
)
def test_experts_in_one_tensor_are_refused(family: Family, tmp_path: Path) -> None:
    """gpt-oss, Llama 4 and Granite keep their experts in another layout, of which vLLM takes no LoRA of each."""
    base = tmp_path / "base"
    prepare_base(base, str(build_source(family, tmp_path / "source")), "none")
    adapted(base, tmp_path / "fused", ["experts.gate_up_proj", "experts.down_proj"])
    with pytest.raises(RefusedError, match="keeps no experts one by one") as caught:
        convert_adapter(tmp_path / "fused", tmp_path / "out", base=base)
    assert caught.value.reason is Reason.MODULE_NOT_SERVED
    assert "gpt-oss, Llama 4 and Granite" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (keep(lambda name: "base_layer" not in name), "weights for 1 of its 2 parameters"),
        (setting(target_parameters=["mlp.experts.down_proj"]), "weights for 2 of its 1 parameters"),
        (setting(target_parameters="mlp.experts.down_proj"), "target_parameters is 'mlp.experts.down_proj'"),
        (setting(target_parameters=[7]), r"target_parameters is \[7\]"),
        (setting(r=4), "has rank 12, not 16"),
        (setting(use_dora=True), "has no m"),
        (keep(lambda name: not name.endswith("1.mlp.experts.lora_B.weight")), "has no B"),
        (setting(target_parameters=[], target_modules=["q_proj"]), "names none of the modules"),
        (
            lambda d: save(d, {n: t[:, :32] if "base_layer.lora_A" in n else t for n, t in load(d).items()}),
            r"gate_up_proj' has A \[12, 32\].* in the base d_in 64 and d_out 128",
        ),
        (
            lambda d: save(d, {n.replace(".experts", ".router"): t for n, t in load(d).items()}),
            "names none of the modules",
        ),
        (
            both(
                setting(target_parameters=["embed_tokens.weight"]),
                lambda d: save(
                    d,
                    {
                        f"{PREFIX}model.embed_tokens.lora_A.weight": torch.ones(3, 64),
                        f"{PREFIX}model.embed_tokens.lora_B.weight": torch.ones(512, 3),
                    },
                ),
            ),
            "model.embed_tokens' has A",
        ),
    ],
)
def test_what_is_not_whole_or_fits_not_is_refused(
    spoil: Change, words: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """With what is wrong; PEFT's own reading would leave weights at random, or out."""
    adapted(bases["qwen3_moe"], tmp_path / "fused", BOTH)
    spoil(tmp_path / "fused")
    with pytest.raises(RefusedError, match=words):
        convert_adapter(tmp_path / "fused", tmp_path / "out", base=bases["qwen3_moe"])
    assert not (tmp_path / "out").exists()


def test_without_a_base_it_asks_for_one_and_a_server_says_what_to_type(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """A server takes no fused experts, whatever else the configuration targets."""
    adapted(bases["qwen3_moe"], tmp_path / "fused", BOTH)
    with pytest.raises(RefusedError, match="are the base's to say") as caught:
        convert_adapter(tmp_path / "fused", tmp_path / "out")
    assert "--base DIR" in caught.value.hint
    with pytest.raises(RefusedError, match="LoRA on parameters") as caught:
        validate_adapter(tmp_path / "fused", read_base_facts(bases["qwen3_moe"]), AdapterLimits(max_rank=8))
    assert "lorecall adapters convert" in caught.value.hint
