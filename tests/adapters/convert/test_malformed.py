"""Whatever is wrong with a folder, a conversion ends in a refusal or in what the folder says, not in a trace."""

import copy
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.convert.convert import convert_adapter
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.files import WEIGHTS_FILE

from tests.adapters import malformed
from tests.adapters.people import Change, load, mlx, pickled
from tests.adapters.spoiling import setting
from tests.tiny import build_tiny_adapter, build_tiny_base

MODULES = ("q_proj", "up_proj")
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("malformed") / "base")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_served_model(base)


@pytest.fixture(scope="module")
def kinds(base: Path) -> dict[str, Path]:
    """Good folders: a plain LoRA, as `.bin`, as MLX saves it, a DoRA, and one whose base was changed."""
    work = base.parent
    made = {"plain": build_tiny_adapter(work / "plain", base, modules=MODULES)}
    made["DoRA"] = build_tiny_adapter(work / "dora", base, modules=MODULES, use_dora=True)
    for name, change in {"bin": pickled(), "MLX": mlx(), "PiSSA": setting(init_lora_weights="pissa")}.items():
        made[name] = Path(shutil.copytree(made["plain"], work / name))
        change(made[name])
    return made


def tried(change: Change, kind: str, kinds: dict[str, Path], base: Path) -> None:
    """Convert a changed folder in every way, and use it as the initial adapter of another."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        folder = Path(shutil.copytree(kinds[kind], work / "case"))
        change(folder)
        initial = kinds["plain"]
        ways: list[tuple[Path, dict[str, Any]]] = [(folder, {}), (folder, {"base": base})]
        ways += [(folder, {"base": base, "initial": initial}), (kinds["PiSSA"], {"initial": folder})]
        for source, more in ways:
            try:
                convert_adapter(source, work / "out", **more)
            except LorecallError as error:
                assert error.hint, error  # noqa: PT017  # or nothing is raised
            else:
                assert read_adapter(work / "out").rank > 0
                assert all(tensor.isfinite().all() for tensor in load(work / "out").values())
                shutil.rmtree(work / "out")
        assert [path.name for path in work.iterdir()] == ["case"]  # nothing half done is left


@given(change=st.one_of(malformed.SETTINGS, malformed.CONFIGS), kind=st.sampled_from(["plain", "DoRA"]))
@settings(max_examples=120)
def test_any_setting(change: Change, kind: str, kinds: dict[str, Path], base: Path) -> None:
    """Of any type, and any bytes in the configuration's place."""
    tried(change, kind, kinds, base)


@pytest.mark.parametrize("value", malformed.VALUES)
def test_any_scale_of_mlx(value: object, kinds: dict[str, Path], base: Path) -> None:
    """It is the factor itself."""
    tried(malformed.mlx_scale(value), "MLX", kinds, base)


@pytest.mark.parametrize("form", malformed.FORMS)
@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"])
def test_any_form_of_a_tensor(form: str, part: str, kinds: dict[str, Path], base: Path) -> None:
    """Of one module, and of all, with and without DoRA."""
    for kind in ("plain", "DoRA")[part == "lora_magnitude_vector" :]:
        for one in (True, False):
            tried(malformed.formed(form, part, one=one), kind, kinds, base)
        tried(malformed.lacking(part), kind, kinds, base)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own on kinds of tensors that few use
@pytest.mark.parametrize("kind", malformed.PICKLES)
def test_anything_that_torch_saves(kind: str, kinds: dict[str, Path], base: Path) -> None:
    """Tensors without numbers of their own are no weights."""
    tried(malformed.holding(kind), "plain", kinds, base)


@given(
    damage=st.builds(malformed.damaged, st.floats(0, 1, exclude_max=True), cut=st.booleans()),
    kind=st.sampled_from(["bin", "plain"]),
)
@settings(max_examples=80)
def test_any_damage(damage: malformed.Damage, kind: str, kinds: dict[str, Path], base: Path) -> None:
    """Of one byte, or from one byte on."""
    tried(damage("adapter_model.bin" if kind == "bin" else WEIGHTS_FILE), kind, kinds, base)


FEATURES = {
    "init_lora_weights": st.sampled_from([True, "gaussian", "pissa", "olora"]),
    "use_dora": st.booleans(),
    "use_rslora": st.booleans(),
    "rank_pattern": st.sampled_from([{}, {"up_proj": 2}, {"layers.1.self_attn.q_proj": 3}]),
    "alpha_pattern": st.sampled_from([{}, {"q_proj": 5}]),
    "layers_to_transform": st.sampled_from([None, [1]]),
}


@given(features=st.fixed_dictionaries(FEATURES))
@settings(max_examples=40)
def test_any_features_together_are_what_peft_computes(
    features: dict[str, Any], model: Any, base: Path
) -> None:
    """At full rank nothing is missed, whatever the trainer combined: the logits are those of its model."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(MODULES), **features)
        tuned = peft.get_peft_model(copy.deepcopy(model), config)
        tuned.save_pretrained(f"{place}/initial")
        generator = torch.Generator().manual_seed(5)
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.mul_(1 + 0.1 * torch.rand(weight.shape, generator=generator)).add_(0.02)
        tuned.save_pretrained(f"{place}/trained")
        convert_adapter(
            Path(place, "trained"), Path(place, "out"), base=base, initial=Path(place, "initial"), rank=64
        )
        plain = peft.PeftModel.from_pretrained(copy.deepcopy(model), f"{place}/out")
        torch.testing.assert_close(plain(IDS).logits, tuned(IDS).logits, rtol=1e-3, atol=1e-3)
