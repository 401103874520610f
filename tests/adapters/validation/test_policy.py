"""The malicious corpus is refused, and good adapters are accepted."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lorecall.adapters.core.errors import AdapterError
from lorecall.adapters.core.refusals import Reason, RefusedError
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE
from lorecall.adapters.peft_format.training_record import read_training
from lorecall.adapters.validation.base_facts import BaseFacts, read_base_facts
from lorecall.adapters.validation.config_checks import INERT, UNSUPPORTED
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter

from tests.adapters import malicious, spoiling

SERVED = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"})
LIMITS = AdapterLimits(max_rank=64, served_modules=SERVED)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base_facts(spoiling.write_base(tmp_path_factory.mktemp("base") / "served-here"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return spoiling.write_adapter(tmp_path / "adapter")


def test_good_adapter_passes(adapter: Path, base: BaseFacts) -> None:
    """The unchanged adapter is accepted, so the change causes each refusal below."""
    info = validate_adapter(adapter, base, LIMITS)
    assert info.rank == spoiling.RANK
    assert len(info.modules) == 4
    assert info.version == Store(adapter.parent / "store").ingest(adapter).version


def test_corpus_is_large_enough() -> None:
    """The corpus has its promised forty kinds, and more."""
    assert len(malicious.SPOILERS) >= 100


@pytest.mark.parametrize("kind", malicious.SPOILERS)
def test_malicious_adapter_is_refused(kind: str, adapter: Path, base: BaseFacts) -> None:
    """Each kind is refused for its own reason, with a message that is safe to print."""
    reason, spoil = malicious.SPOILERS[kind]
    spoil(adapter)
    with pytest.raises(RefusedError) as caught:
        validate_adapter(adapter, base, LIMITS)
    assert caught.value.reason is reason, caught.value
    assert isinstance(caught.value, AdapterError)
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("kind", malicious.SPOILERS)
def test_malicious_adapter_is_refused_through_the_store(
    kind: str, adapter: Path, base: BaseFacts, tmp_path: Path
) -> None:
    """A malicious adapter is refused by the store or, copied there, by validation."""
    _, spoil = malicious.SPOILERS[kind]
    spoil(adapter)
    store = Store(tmp_path / "store", max_bytes=1 << 24)

    def take_in() -> None:
        training = read_training(adapter)
        validate_adapter(store.ingest(adapter).path, base, LIMITS, training=training)

    with pytest.raises(RefusedError):
        take_in()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(
    data: st.DataObject, adapter: Path, base: BaseFacts, tmp_path: Path
) -> None:
    """Whatever bytes are changed, removed or added, validation accepts or refuses: no other exception."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(adapter, copy)
    target = copy / data.draw(st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]))
    content = bytearray(target.read_bytes())
    limit = min(len(content), data.draw(st.sampled_from([16, 2500, len(content)])))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, limit - 1))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    target.write_bytes(content)
    try:
        info = validate_adapter(copy, base, LIMITS)
    except RefusedError:
        return
    assert info.rank <= LIMITS.max_rank


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_extreme_but_finite_values_pass(dtype: type, adapter: Path, base: BaseFacts) -> None:
    """Zero, denormals and the largest float16 are values like any other."""
    for number in (0.0, -0.0, 6e-8, 65504.0, -65504.0):
        spoiling.value(number, dtype)(adapter)
        validate_adapter(adapter, base, LIMITS)


def test_bfloat16_values_are_read_as_such(adapter: Path, base: BaseFacts) -> None:
    """bfloat16, which numpy does not have, is checked by its own bits: 65280 passes, 65536 and NaN do not."""
    for bits, passes in ((0x477F, True), (0xC77F, True), (0x4780, False), (0x7F80, False), (0xFFC1, False)):
        shutil.rmtree(adapter)
        spoiling.write_adapter(adapter)
        matrix = np.full((4, 16), bits, np.uint16)
        spoiling.put(spoiling.A, matrix)(adapter)
        spoiling.header(lambda h: h[spoiling.A].update(dtype="BF16"))(adapter)
        if passes:
            validate_adapter(adapter, base, LIMITS)
            continue
        with pytest.raises(RefusedError) as caught:
            validate_adapter(adapter, base, LIMITS)
        assert caught.value.reason is Reason.NOT_FINITE


@pytest.mark.parametrize(
    "spoil",
    [
        spoiling.setting(
            rank_pattern={"layers.1.self_attn.q_proj": 4}, alpha_pattern={".*layers.0.*q_proj": 32}
        ),
        spoiling.setting(
            use_rslora=True, init_lora_weights="gaussian", lora_dropout=0.1, megatron_core="megatron.core"
        ),
        spoiling.setting(target_modules=".*(q|down)_proj"),
        spoiling.setting(target_modules=["q_proj", "down_proj", "c_attn"]),
        spoiling.setting(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 1]),
        spoiling.setting(target_modules=["q_proj", "down_proj", "v_proj"], exclude_modules=["v_proj"]),
        spoiling.setting(trainable_token_indices={"embed_tokens": []}),
        spoiling.setting(rank_pattern={f"model.layers.{n // 7}.self_attn.m{n}": 4 for n in range(560)}),
        spoiling.put(f"{malicious.EMBEDDING}.base_layer.weight", malicious.TABLE),
        spoiling.setting(base_model_name_or_path="/somewhere/else/Tiny-LM/"),
        spoiling.setting(base_model_name_or_path="served-here"),
        spoiling.training(base_digest=spoiling.BASE_DIGEST, seed=1),
        lambda d: (d / "training_args.bin").write_bytes(b"a pickle that nobody opens"),
    ],
)
def test_harmless_variety_passes(spoil: Callable[[Path], object], adapter: Path, base: BaseFacts) -> None:
    """Settings that only look unusual, and files beside the adapter's, are no reason to refuse."""
    spoil(adapter)
    validate_adapter(adapter, base, LIMITS)


def test_digest_outranks_the_name(adapter: Path, base: BaseFacts) -> None:
    """An adapter with the right digest may state any name."""
    spoiling.setting(base_model_name_or_path="renamed/Since")(adapter)
    spoiling.training(base_digest=spoiling.BASE_DIGEST)(adapter)
    assert "its digest is this base's" in validate_adapter(adapter, base, LIMITS).remarks[0]


def test_rank_of_a_pattern_is_followed(adapter: Path, base: BaseFacts) -> None:
    """A module whose rank comes from `rank_pattern` must have that rank, and passes with it."""
    spoiling.setting(rank_pattern={"layers.0.self_attn.q_proj": 8})(adapter)
    ones = {spoiling.A: np.ones((8, 16), np.float32), spoiling.B: np.ones((16, 8), np.float32)}
    with pytest.raises(RefusedError):
        validate_adapter(adapter, base, LIMITS)
    for name, matrix in ones.items():
        spoiling.put(name, matrix)(adapter)
    validate_adapter(adapter, base, LIMITS)


def test_limits_are_the_servers(adapter: Path, base: BaseFacts) -> None:
    """The same adapter passes or not by the server's rank, wrapped modules and strictness about the base."""
    with pytest.raises(RefusedError, match="over the server's maximum of 2"):
        validate_adapter(adapter, base, AdapterLimits(max_rank=2))
    with pytest.raises(RefusedError, match="silently left out"):
        validate_adapter(adapter, base, AdapterLimits(max_rank=8, served_modules=frozenset({"q_proj"})))
    others = dict.fromkeys(("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), "a reason")
    for why, said in ((others, "; a reason"), ({"lm_head": "another"}, "")):
        because = AdapterLimits(max_rank=8, served_modules=frozenset({"q_proj"}), why_not_served=why)
        with pytest.raises(RefusedError) as caught:
            validate_adapter(adapter, base, because)
        assert caught.value.hint == f"served here: q_proj{said}"
    spoiling.setting(base_model_name_or_path="")(adapter)
    validate_adapter(adapter, base, AdapterLimits(max_rank=8, require_base=False))


def test_large_values_are_a_matter_of_the_engines_precision(adapter: Path, base: BaseFacts) -> None:
    """70,000 is over float16's range and within bfloat16's and float32's; infinity is over all."""
    spoiling.value(7e4)(adapter)
    with pytest.raises(RefusedError, match="too large for float16"):
        validate_adapter(adapter, base, LIMITS)
    full = dataclasses.replace(LIMITS, half=False)
    validate_adapter(adapter, base, full)
    for number in (3.4e38, float("inf")):
        spoiling.value(number)(adapter)
        with pytest.raises(RefusedError) as caught:
            validate_adapter(adapter, base, full)
        assert caught.value.reason is Reason.NOT_FINITE


def test_an_untrained_adapter_is_remarked(adapter: Path, base: BaseFacts) -> None:
    """PEFT begins with B at zero: such an adapter is served, and says that it changes nothing."""
    assert validate_adapter(adapter, base, LIMITS).remarks == ()
    spoiling.tensors(lambda t: t.update({k: v * 0 for k, v in t.items() if "lora_B" in k}))(adapter)
    assert "every lora_B is zero" in validate_adapter(adapter, base, LIMITS).remarks[0]


def test_a_byte_order_mark_is_named(adapter: Path, base: BaseFacts) -> None:
    """Neither PEFT nor the engine reads such a configuration."""
    raw = (adapter / CONFIG_FILE).read_bytes()
    spoiling.config_text(b"\xef\xbb\xbf" + raw)(adapter)
    with pytest.raises(RefusedError, match="byte order mark"):
        validate_adapter(adapter, base, LIMITS)


def test_every_setting_of_peft_is_known() -> None:
    """Each setting of the installed PEFT's LoRA is inert when serving, or refused: none is overlooked."""
    settings_of_peft = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert settings_of_peft <= INERT | UNSUPPORTED.keys()
    assert not INERT & UNSUPPORTED.keys()


def test_peft_defaults_pass(adapter: Path, base: BaseFacts) -> None:
    """A configuration as the installed PEFT writes it, all settings at their defaults, is accepted."""
    defaults: dict[str, Any] = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    ).to_dict()
    defaults |= {"target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": "tiny-lm"}
    (adapter / CONFIG_FILE).write_text(json.dumps(defaults))
    validate_adapter(adapter, base, LIMITS)


@pytest.mark.parametrize(
    ("stated", "remark"),
    [
        ("some-org/Tiny-LM", ""),
        ("unsloth/tiny-lm-unsloth-bnb-4bit", "another copy"),
        ("other/Tiny-LM-AWQ", "another copy"),
        ("/cache/hub/models--some-org--tiny-lm/snapshots/0123abcd", ""),
        ("/home/me/run-7/merged", "a folder of that name"),
    ],
)
def test_other_names_of_the_base_are_taken_with_a_remark(
    stated: str, remark: str, adapter: Path, base: BaseFacts
) -> None:
    """A copy in another precision, and a folder of any name where layers and shapes agree, say so in a remark."""
    spoiling.setting(base_model_name_or_path=stated)(adapter)
    remarks = validate_adapter(adapter, base, LIMITS).remarks
    assert [remark in one for one in remarks] == ([True] if remark else [])
    assert not any("/home" in one for one in remarks)


def test_a_folder_is_no_proof_of_the_base(adapter: Path, base: BaseFacts) -> None:
    """A folder of another name is refused where the adapter leaves a layer out, or states another class."""
    spoiling.setting(base_model_name_or_path="/models/other", auto_mapping={"base_model_class": "GPT"})(
        adapter
    )
    with pytest.raises(RefusedError, match="states the base") as caught:
        validate_adapter(adapter, base, LIMITS)
    assert "LORECALL_BASE_NAMES=other" in caught.value.hint
    spoiling.setting(auto_mapping=None)(adapter)
    assert validate_adapter(adapter, base, LIMITS).remarks
    spoiling.tensors(lambda t: [t.pop(name) for name in list(t) if "layers.1." in name])(adapter)
    with pytest.raises(RefusedError, match="states the base"):
        validate_adapter(adapter, base, LIMITS)


def test_alternatives_in_a_pattern_pass(adapter: Path, base: BaseFacts) -> None:
    """A pattern for some of many layers and modules is no bomb."""
    layers = "|".join(map(str, range(28)))
    spoiling.setting(alpha_pattern={rf".*layers\.({layers})\.(self_attn|mlp)\..*(q|down)_proj": 8})(adapter)
    assert validate_adapter(adapter, base, LIMITS).rank == spoiling.RANK
