"""Forms that change the base's weights, or need more than their own folder; and files that must not be read."""

import copy
import json
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.convert.convert import convert_adapter
from lorecall.adapters.convert.lora_names import module_of_base
from lorecall.adapters.convert.raw_files import read_tensors
from lorecall.adapters.core.errors import BaseModelError
from lorecall.adapters.core.refusals import Reason, RefusedError
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter
from safetensors.torch import load_file, save_file

from tests.adapters.people import PREFIX, load, named, pickled, save
from tests.adapters.spoiling import setting
from tests.tiny import build_tiny_adapter, build_tiny_base

MODULES = ["q_proj", "up_proj", "down_proj"]
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("convert") / "base")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_served_model(base)


@pytest.fixture
def good(base: Path, tmp_path: Path) -> Path:
    return build_tiny_adapter(tmp_path / "good", base, modules=tuple(MODULES))


def logits(model: Any, adapter: Path | None = None) -> torch.Tensor:
    """The logits of a fixed prompt, with an adapter as PEFT applies it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        asked = copy.deepcopy(model)
        asked = asked if adapter is None else peft.PeftModel.from_pretrained(asked, adapter)
        found: torch.Tensor = asked(IDS).logits
    return found


def trained(model: Any, base: Path, work: Path, init: Any, **more: Any) -> tuple[Path, Path, Any]:
    """Save an adapter before and after a stand-in for its training; return both and the model as trained."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=MODULES, init_lora_weights=init, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(copy.deepcopy(model), config)
        config.init_lora_weights = True  # as PEFT's guide has it: the initial adapter is a plain one
        tuned.save_pretrained(work / "initial")
        config.init_lora_weights = init
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_" in name:
                    weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
        tuned.save_pretrained(work / "trained")
    for folder in (work / "initial", work / "trained"):
        setting(base_model_name_or_path=str(base))(folder)
    return work / "initial", work / "trained", tuned.eval()


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("scale", [{}, {"use_rslora": True}])
def test_a_changed_base_is_undone(
    init: str, scale: dict[str, bool], model: Any, base: Path, tmp_path: Path
) -> None:
    """The result on the untouched base gives the logits of the model as it was trained on the changed one."""
    initial, folder, tuned = trained(model, base, tmp_path, init, **scale)
    with pytest.raises(RefusedError, match="changed before the training") as caught:
        convert_adapter(folder, tmp_path / "out")
    assert "--initial" in caught.value.hint
    result = convert_adapter(folder, tmp_path / "out", initial=initial)
    assert (result.rank, result.modules) == (8, 6)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, tmp_path / "out"), tuned(IDS).logits, rtol=1e-3, atol=1e-3)
    assert (logits(model) - tuned(IDS).logits).abs().max() > 0.1
    assert validate_adapter(tmp_path / "out", read_base_facts(base), AdapterLimits(max_rank=8)).rank == 8


def test_loftq_is_the_difference_to_its_initial_adapter(good: Path, tmp_path: Path) -> None:
    """LoftQ's start needs a quantiser; the formula is that of the others, over any two adapters."""
    initial = Path(shutil.copytree(good, tmp_path / "initial"))
    save(initial, {name: one * 0.5 for name, one in load(initial).items()})
    setting(init_lora_weights="loftq", loftq_config={"loftq_bits": 4})(good)
    convert_adapter(good, tmp_path / "out", initial=initial)
    after, before, found = load(good), load(initial), load(tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG_FILE).read_text())
    name = f"{PREFIX}model.layers.1.mlp.up_proj.lora_{{}}.weight"
    a, b = name.format("A"), name.format("B")
    expected = after[b] @ after[a] - before[b] @ before[a]
    torch.testing.assert_close(config["lora_alpha"] / config["r"] * found[b] @ found[a], expected)


def test_another_initial_adapter_is_refused(good: Path, base: Path, tmp_path: Path) -> None:
    """It must be that of the same modules."""
    other = build_tiny_adapter(tmp_path / "other", base, modules=("q_proj",))
    setting(init_lora_weights="pissa")(good)
    with pytest.raises(RefusedError, match="initial adapter only"):
        convert_adapter(good, tmp_path / "out", initial=other)


def test_dora_of_full_rank_is_exact_and_less_says_its_error(model: Any, base: Path, tmp_path: Path) -> None:
    """At the base's full width nothing is missed; the error of less is that of the best approximation."""
    _, folder, tuned = trained(model, base, tmp_path, init=True, use_dora=True)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "magnitude" in name:
                weight.mul_(1.05)
        tuned.save_pretrained(folder)
        expected = tuned(IDS).logits
    setting(base_model_name_or_path=str(base))(folder)
    with pytest.raises(RefusedError, match="depends on the base's weights"):
        convert_adapter(folder, tmp_path / "none")
    full = convert_adapter(folder, tmp_path / "full", base=base, rank=64)
    assert full.error < 1e-5
    torch.testing.assert_close(logits(model, tmp_path / "full"), expected, rtol=1e-3, atol=1e-3)
    errors = [convert_adapter(folder, tmp_path / str(r), base=base, rank=r).error for r in (16, 8, 4)]
    assert full.error < errors[0] < errors[1] < errors[2] < 1
    assert f"{errors[0]:.3%}" in convert_adapter(folder, tmp_path / "16", base=base, rank=16).steps[-1]


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_dora_on_a_changed_base_keeps_its_magnitudes(
    init: str, model: Any, base: Path, tmp_path: Path
) -> None:
    """Both are undone: at full width the result gives the logits of the model as it was trained."""
    initial, folder, tuned = trained(model, base, tmp_path, init, use_dora=True)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "magnitude" in name:
                weight.mul_(1.2)
        tuned.save_pretrained(folder)
        expected = tuned(IDS).logits
    setting(base_model_name_or_path=str(base))(folder)
    with pytest.raises(RefusedError, match="depends on the base's weights"):
        convert_adapter(folder, tmp_path / "out", initial=initial)
    result = convert_adapter(folder, tmp_path / "out", base=base, initial=initial, rank=64)
    assert result.error < 1e-5
    torch.testing.assert_close(logits(model, tmp_path / "out"), expected, rtol=1e-3, atol=1e-3)


def test_magnitudes_that_the_configuration_does_not_name_are_no_silent_loss(
    model: Any, base: Path, tmp_path: Path
) -> None:
    """PEFT would leave them out of the file and say so in a warning."""
    _, folder, _ = trained(model, base, tmp_path, init=True, use_dora=True)
    setting(use_dora=False)(folder)
    with pytest.raises(RefusedError, match="does not say use_dora"):
        convert_adapter(folder, tmp_path / "out", base=base)


def test_the_error_is_that_of_the_weights(model: Any, base: Path, tmp_path: Path) -> None:
    """Computed again from PEFT's merged weights and the result's, over all modules."""
    _, folder, tuned = trained(model, base, tmp_path, init=True, use_dora=True)
    error = convert_adapter(folder, tmp_path / "out", base=base, rank=4).error
    tensors, missed, whole = load(tmp_path / "out"), 0.0, 0.0
    merged = dict(tuned.merge_and_unload().named_parameters())
    for name, weight in dict(model.named_parameters()).items():
        module = name.removesuffix(".weight")
        if not module.endswith(tuple(MODULES)):
            continue
        change = (merged[name] - weight).double()
        b, a = (tensors[f"{PREFIX}{module}.lora_{side}.weight"].double() for side in "BA")
        missed, whole = missed + float((change - b @ a).square().sum()), whole + float(change.square().sum())
    assert error == pytest.approx((missed / whole) ** 0.5, rel=1e-3)


def test_tinker_names_the_head_otherwise(base: Path, tmp_path: Path, model: Any) -> None:
    """Its `unembed_tokens` is the head, which it adapts although PEFT's "all-linear" leaves heads out."""
    folder = build_tiny_adapter(tmp_path / "tinker", base, modules=("q_proj", "lm_head"))
    tensors = {name: one for name, one in load(folder).items() if "base_layer" not in name}
    save(folder, {n.replace("model.lm_head", "model.model.unembed_tokens"): t for n, t in tensors.items()})
    setting(target_modules="all-linear")(folder)
    convert_adapter(folder, tmp_path / "out")
    assert load(tmp_path / "out").keys() == tensors.keys()
    plain = build_tiny_adapter(tmp_path / "plain", base, modules=("q_proj", "lm_head"))
    torch.testing.assert_close(logits(model, tmp_path / "out"), logits(model, plain))


def test_names_are_looked_up_in_the_base_where_it_is_at_hand(good: Path, base: Path, tmp_path: Path) -> None:
    """A base that has the longer names keeps them; a plain one gets its own."""
    assert (
        module_of_base("language_model.model.layers.0.q", {"language_model.model.layers.0.q"})[:4] == "lang"
    )
    assert module_of_base("language_model.model.layers.0.q", {"model.layers.0.q"}) == "model.layers.0.q"
    assert module_of_base("model.language_model.layers.0.q") == "model.layers.0.q"
    named(lambda n: n.removeprefix(PREFIX + "model."))(good)
    convert_adapter(good, tmp_path / "out", base=base)
    assert validate_adapter(tmp_path / "out", read_base_facts(base), AdapterLimits(max_rank=8)).rank == 4


class _Command:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_pickle_does_not_run(good: Path, tmp_path: Path) -> None:
    """PyTorch's `weights_only` refuses it, and nothing is written."""
    (good / WEIGHTS_FILE).unlink()
    torch.save({"x": _Command(tmp_path / "pwned")}, good / "adapter_model.bin")
    with pytest.raises(RefusedError) as caught:
        convert_adapter(good, tmp_path / "out")
    assert caught.value.reason is Reason.PICKLE
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "out").exists()


def test_a_bare_pickle_is_not_read(good: Path, tmp_path: Path) -> None:
    """Only what `torch.save` writes since release 1.6 is, whose size is known before it is read."""
    (good / WEIGHTS_FILE).unlink()
    (good / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(RefusedError) as caught:
        convert_adapter(good, tmp_path / "out")
    assert caught.value.reason is Reason.PICKLE


def test_tensors_are_bounded_whatever_the_file_says(good: Path) -> None:
    """A deflated zip and a view that repeats one number are as large as what they stand for."""
    pickled()(good)
    file = good / "adapter_model.bin"
    size = sum(one.numel() * 4 for one in read_tensors([file], max_bytes=1 << 20).values())
    with pytest.raises(RefusedError, match="larger than"):
        read_tensors([file], max_bytes=size // 2)
    torch.save({"x": torch.zeros(1).expand(1 << 10, 1 << 10)}, file)
    with pytest.raises(RefusedError, match="larger than"):
        read_tensors([file], max_bytes=1 << 20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/data.pkl", bytes(1 << 21))
    with pytest.raises(RefusedError, match="larger than"):
        read_tensors([file], max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (named(lambda n: n.replace("up_proj", "experts.up_proj") + ".x"), "no LoRA matrix"),
        (lambda d: save(d, {n: t[None] for n, t in load(d).items()}), "matrices of its own"),
        (
            lambda d: save(d, load(d) | {"layers.0.mlp.up_proj.lora_A.weight": torch.ones(4, 64)}),
            "has no B|in the base",
        ),
        (setting(r=8), "rank 4, not 8"),
        (setting(target_modules=["o_proj"]), "names none"),
        (setting(modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda d: save_file({"x": torch.ones(2, dtype=torch.int8)}, d / WEIGHTS_FILE), "no LoRA matrix"),
    ],
)
def test_what_cannot_be_plain_is_refused(spoil: Any, words: str, good: Path, tmp_path: Path) -> None:
    """With what is wrong, and without a result."""
    spoil(good)
    with pytest.raises(RefusedError, match=words):
        convert_adapter(good, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_folder_and_what_is_no_base_are_named(good: Path, base: Path, tmp_path: Path) -> None:
    """A path that is not there, a file, and a base that transformers cannot read."""
    for wrong in (tmp_path / "nowhere", good / CONFIG_FILE):
        with pytest.raises(RefusedError, match="is no folder that can be read"):
            convert_adapter(wrong, tmp_path / "out")
    dora = build_tiny_adapter(tmp_path / "dora", base, modules=("q_proj",), use_dora=True)
    strange = Path(shutil.copytree(base, tmp_path / "strange"))
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(config | {"model_type": "of-tomorrow"}))
    with pytest.raises(BaseModelError, match="transformers cannot read"):
        convert_adapter(dora, tmp_path / "out", base=strange)


def test_values_stay_as_they_are(good: Path, tmp_path: Path) -> None:
    """A plain LoRA keeps every number and its precision, and its training record."""
    save(good, {name: one.bfloat16() for name, one in load(good).items()})
    (good / "lorecall-training.json").write_text('{"seed": 7, "else": 1}')
    convert_adapter(good, tmp_path / "out")
    before, after = load(good), load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "out" / "lorecall-training.json").read_text()) == {"seed": 7}
