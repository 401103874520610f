"""Names match as in PEFT, and a stranger's expressions cannot hold anything up."""

import itertools
from typing import Any

import peft
import pytest
from lorecall.adapters.core.refusals import Reason, RefusedError
from lorecall.adapters.peft_format.patterns import Targets, matching
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

LINEAR = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.experts.0.up_proj")
MODULES = [f"model.{layers}.{n}.{name}" for layers in ("layers", "h") for n in (0, 1, 10) for name in LINEAR]
MODULES += ["lm_head", "q_proj", "model.embed_tokens"]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|v_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|v_proj|up_proj)))"
)
TARGETS: list[Any] = [
    ["q_proj"], ["q_proj", "up_proj"], ["model.layers.0.self_attn.q_proj"], ["attn.q_proj"], ["proj"], UNSLOTH,
    r".*\.(0|1)\..*q_proj", r"model\.layers\.\d+\.mlp\.up_proj", "q_proj",
]  # fmt: skip
REST: list[dict[str, Any]] = [
    {}, {"layers_to_transform": [1]}, {"layers_to_transform": 0}, {"layers_to_transform": []},
    {"layers_to_transform": [0], "layers_pattern": "h"},
    {"layers_to_transform": [0, 10], "layers_pattern": ["h", "layers"]},
    {"exclude_modules": ["v_proj", "layers.1.self_attn.q_proj"]}, {"exclude_modules": r".*\.10\..*"},
]  # fmt: skip


PAIRS = [
    (targets, rest)
    for targets, rest in itertools.product(TARGETS, REST)
    if not (isinstance(targets, str) and "layers_to_transform" in rest)  # PEFT refuses that itself
]


@pytest.mark.parametrize(("targets", "rest"), PAIRS)
def test_targets_are_pefts(targets: Any, rest: dict[str, Any]) -> None:
    """Each form of naming modules selects the ones that PEFT adapts."""
    config = {"target_modules": targets, **rest}
    theirs = peft.LoraConfig(**config)
    ours = Targets(config)
    assert [name in ours for name in MODULES] == [
        bool(check_target_module_exists(theirs, name)) for name in MODULES
    ]


def test_all_linear_leaves_out_the_head() -> None:
    """PEFT's shorthand means every linear module but the output."""
    ours = Targets({"target_modules": "all-linear"})
    assert [name for name in MODULES if name not in ours] == ["lm_head"]


def test_patterns_of_ranks_are_pefts() -> None:
    """The first pattern that matches counts, as in PEFT; a dot stands for any character."""
    patterns = {
        "layers.1.self_attn.q_proj": 1,
        "q_proj": 2,
        "modelXlayers": 3,
        ".*up_proj": 4,
        "h.0.mlp.*": 5,
    }
    patterns |= {"self.attn.v_proj": 6}
    for name in MODULES:
        expected = patterns.get(get_pattern_key(list(patterns), name))
        assert next(matching(patterns, name), None) == expected, name


ENDLESS = r"(?:[\w.]|[\w.][\w.]|[\w.][\w.][\w.])+"


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ENDLESS + "[0-9]"},
        {"target_modules": ["q_proj"], "exclude_modules": ENDLESS + "[0-9]"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ENDLESS},
    ],
)
def test_endless_expressions_are_refused(config: dict[str, Any]) -> None:
    """They have a second in all, not for each module."""
    ours = Targets(config)
    with pytest.raises(RefusedError) as caught:
        [name in ours for name in ["model.layers.x.self_attn.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.q_proj"] * 9]
    assert caught.value.reason is Reason.UNSAFE_PATTERN


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": ["1"]}, {"layers_to_transform": {"a": 1}}, {"layers_pattern": 7},
        {"exclude_modules": 7}, {"exclude_modules": [7]}, {"exclude_modules": "("},
        {"target_modules": "x" * 5000},
    ],
)  # fmt: skip
def test_wrong_types_are_refused(config: dict[str, Any]) -> None:
    """Also in the settings that only PEFT reads."""
    with pytest.raises(RefusedError):
        Targets({"target_modules": ["q_proj"], **config})
