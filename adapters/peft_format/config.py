"""`adapter_config.json`: only a plain LoRA that the engine applies as PEFT would passes."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, safe_repr
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.files import CONFIG_FILE

T = TypeVar("T")
# Settings of `peft.LoraConfig` that change nothing when a finished adapter is served: the tensors of the
# weights file say which modules it has.
INERT = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "parent_library", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
# Settings that make it more than a plain LoRA when they are on. vLLM names some of them and ignores the rest.
UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "modules_to_save": "modules_to_save (whole modules beside the LoRA)",
    "trainable_token_indices": "trainable token embeddings",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "activated LoRA (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "corda_config": "CorDA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
}
# Initialisations that leave the base's weights alone; the others (PiSSA, OLoRA, CorDA, LoftQ) change them.
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_MAX_PATTERNS = (
    480  # under the 500 that the regular-expression caches hold: more would be recompiled per module
)
_MAX_TARGETS = 4096
# Nothing repeats but ".*": a pattern without nested repeats cannot take exponential time.
_SAFE_PATTERN = re.compile(r"(?:[A-Za-z0-9_.^$|()\\-]|\[[0-9](?:-[0-9])?\]|\.\*)+", re.ASCII)


@dataclass(frozen=True)
class LoraSettings:
    """What serving needs of the configuration.

    Attributes:
        rank: The default rank.
        alpha: The default alpha.
        rslora: Whether the scale is alpha/√rank rather than alpha/rank.
        target_modules: The names listed; () where a pattern stands instead, which nobody evaluates.
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
        return next(_matching(self.rank_pattern, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """The factor on B·A that PEFT and vLLM use for a module."""
        rank = self.rank_of(module)
        alpha = next(_matching(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_settings(raw: bytes, *, max_rank: int) -> LoraSettings:
    """Check the bytes of an adapter's configuration.

    Args:
        raw: The file's bytes.
        max_rank: The largest rank that the server has room for.

    Raises:
        ConfigRefusedError: It is malformed, no LoRA, uses what the engine lacks, or has a rank out of bounds.
    """
    config = parse_object(raw, CONFIG_FILE)
    if config.get("peft_type") != "LORA":
        raise _refused(Reason.NOT_LORA, "peft_type", config.get("peft_type"), '"LORA"')
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _refused(Reason.NOT_LORA, "task_type", config["task_type"], '"CAUSAL_LM"')
    _check_features(config)
    rslora = config.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise _refused(Reason.BAD_SETTING, "use_rslora", rslora, "true or false")
    base = config.get("base_model_name_or_path") or ""
    if not isinstance(base, str):
        raise _refused(Reason.BAD_SETTING, "base_model_name_or_path", base, "a text")
    return LoraSettings(
        rank=_rank("r", config.get("r"), max_rank),
        alpha=_alpha("lora_alpha", config.get("lora_alpha")),
        rslora=rslora,
        target_modules=_targets(config.get("target_modules")),
        rank_pattern={
            key: _rank(f"rank_pattern[{safe_repr(key)}]", value, max_rank)
            for key, value in _patterns(config, "rank_pattern").items()
        },
        alpha_pattern={
            key: _alpha(f"alpha_pattern[{safe_repr(key)}]", value)
            for key, value in _patterns(config, "alpha_pattern").items()
        },
        base_model=base,
    )


def _check_features(config: dict[str, Any]) -> None:
    for key, feature in UNSUPPORTED.items():
        if config.get(key):
            raise ConfigRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                f"the adapter uses {feature}, which the engine does not apply",
                hint=f"train it without {key}",
                param=key,
            )
    if config.get("bias", "none") != "none":
        raise _refused(
            Reason.UNSUPPORTED_FEATURE, "bias", config["bias"], '"none": the engine applies no bias'
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.casefold() not in _HARMLESS_INITS:
        raise ConfigRefusedError(
            Reason.UNSUPPORTED_FEATURE,
            f"init_lora_weights is {safe_repr(init)}, which changes the base's weights under PEFT",
            hint="convert it to a plain LoRA (PEFT: path_initial_model_for_weight_conversion)",
            param="init_lora_weights",
        )
    for key in config.keys() - INERT - UNSUPPORTED.keys():
        if config[key]:
            raise ConfigRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                f"the setting {safe_repr(key)} is unknown here, so its effect cannot be served",
                hint="remove it if it only describes the training",
                param=CONFIG_FILE,
            )


def _rank(name: str, value: Any, max_rank: int) -> int:
    if type(value) is not int or value < 1:
        raise _refused(Reason.BAD_SETTING, name, value, "a whole number from 1")
    if value > max_rank:
        raise ConfigRefusedError(
            Reason.RANK_TOO_LARGE,
            f"{name} is {value}, over the server's maximum of {max_rank}",
            hint="start the server with a larger --max-lora-rank, or train a smaller rank",
            param=name,
        )
    return value


def _alpha(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1e6:
        raise _refused(Reason.ABSURD_SCALING, name, value, "a number over 0, up to 1000000")
    return float(value)


def _targets(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and 0 < len(value) <= 1000:
        return ()
    listed = isinstance(value, list) and 0 < len(value) <= _MAX_TARGETS
    if not listed or not all(isinstance(item, str) and item for item in value):
        raise _refused(Reason.BAD_SETTING, "target_modules", value, "a list of module names")
    return tuple(value)


def _patterns(config: dict[str, Any], key: str) -> dict[str, Any]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
        raise _refused(Reason.BAD_SETTING, key, patterns, "a map from module names to numbers")
    for pattern in patterns:
        # vLLM matches these as regular expressions, for every module, in the engine's process.
        safe = len(pattern) <= 200 and pattern.count(".*") <= 2 and _SAFE_PATTERN.fullmatch(pattern)
        if not safe or not _compiles(pattern):
            raise ConfigRefusedError(
                Reason.UNSAFE_PATTERN,
                f"{key} has the pattern {safe_repr(pattern)}, which could hold up the engine",
                hint="use module names; groups, ranges of digits and .* (at most twice) may be in them",
                param=key,
            )
    return patterns


def _compiles(pattern: str) -> bool:
    try:
        re.compile(f"({pattern})")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _matching(patterns: Mapping[str, T], module: str) -> Iterator[T]:
    """PEFT's rule: a pattern matches the end of a name from a dot on; the first that does wins."""
    return (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))


def _refused(reason: Reason, param: str, value: Any, right: str) -> ConfigRefusedError:
    return ConfigRefusedError(
        reason, f"{param} is {safe_repr(value)}", hint=f"it must be {right}", param=param
    )
