"""`adapter_config.json`: the settings of a LoRA, with their types checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, safe_repr
from lorecall.adapters.peft_format.patterns import matching

MAX_TARGETS = 4096
_MAX_ALPHA = 1e6


@dataclass(frozen=True)
class LoraSettings:
    """What serving needs of the configuration.

    `rank_of` and `scaling_of` evaluate the patterns as regular expressions: check those of a stranger first.

    Attributes:
        rank: The default rank.
        alpha: The default alpha.
        rslora: Whether the scale is alpha/√rank rather than alpha/rank.
        target_modules: The names listed; () for a pattern, which is not evaluated.
        rank_pattern: Rank by module pattern, in order.
        alpha_pattern: Alpha by module pattern, in order.
        base_model: The base it states; "" for none.
    """

    rank: int
    alpha: float
    rslora: bool
    target_modules: tuple[str, ...]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    base_model: str

    def rank_of(self, module: str) -> int:
        """The rank that PEFT and vLLM use for a module."""
        return next(matching(self.rank_pattern, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """The factor on B·A that PEFT and vLLM use for a module."""
        rank = self.rank_of(module)
        alpha = next(matching(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_settings(config: Mapping[str, Any]) -> LoraSettings:
    """Read the settings of an adapter's configuration.

    Args:
        config: The JSON object in `adapter_config.json`.

    Raises:
        ConfigRefusedError: It is no LoRA, or a setting has a wrong type or value.
    """
    if "peft_type" not in config and "fine_tune_type" in config:
        raise ConfigRefusedError(
            Reason.NOT_LORA,
            "the configuration is that of an adapter of MLX",
            hint="make a plain LoRA of it: lorecall adapters convert DIR --out DIR",
            param="peft_type",
        )
    if config.get("peft_type") != "LORA":
        raise wrong_setting(Reason.NOT_LORA, "peft_type", config.get("peft_type"), '"LORA"')
    rslora = config.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise wrong_setting(Reason.BAD_SETTING, "use_rslora", rslora, "true or false")
    base = config.get("base_model_name_or_path") or ""
    if not isinstance(base, str):
        raise wrong_setting(Reason.BAD_SETTING, "base_model_name_or_path", base, "a text")
    return LoraSettings(
        rank=_rank("r", config.get("r")),
        alpha=_alpha("lora_alpha", config.get("lora_alpha")),
        rslora=rslora,
        target_modules=_targets(config.get("target_modules"), alone=not config.get("target_parameters")),
        rank_pattern={
            key: _rank(f"rank_pattern[{safe_repr(key)}]", value)
            for key, value in _patterns(config, "rank_pattern").items()
        },
        alpha_pattern={
            key: _alpha(f"alpha_pattern[{safe_repr(key)}]", value)
            for key, value in _patterns(config, "alpha_pattern").items()
        },
        base_model=base,
    )


def wrong_setting(reason: Reason, param: str, value: Any, right: str) -> ConfigRefusedError:
    """Return the refusal of a setting that has the wrong value."""
    return ConfigRefusedError(
        reason, f"{param} is {safe_repr(value)}", hint=f"it must be {right}", param=param
    )


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise wrong_setting(Reason.BAD_SETTING, name, value, "a whole number from 1")
    return value


def _alpha(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= _MAX_ALPHA:
        raise wrong_setting(Reason.ABSURD_SCALING, name, value, "a number over 0, up to 1000000")
    return float(value)


def _targets(value: Any, *, alone: bool) -> tuple[str, ...]:
    if (isinstance(value, str) and 0 < len(value) <= 4096) or (value in (None, []) and not alone):
        return ()
    listed = isinstance(value, list) and 0 < len(value) <= MAX_TARGETS
    if not listed or not all(isinstance(item, str) and item for item in value):
        raise wrong_setting(Reason.BAD_SETTING, "target_modules", value, "a list of module names")
    return tuple(value)


def _patterns(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise wrong_setting(Reason.BAD_SETTING, key, patterns, "a map from module names to numbers")
    return patterns
