"""Checks of the configuration: only a plain LoRA passes, which the engine applies as PEFT does."""

import math
import re
from collections.abc import Mapping
from typing import Any

from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, safe_repr
from lorecall.adapters.peft_format.config import LoraSettings, wrong_setting
from lorecall.adapters.peft_format.files import CONFIG_FILE
from lorecall.adapters.peft_format.patterns import is_name

# Settings of `peft.LoraConfig` that change nothing when a finished adapter is served: the tensors of the
# weights file say which modules it has.
INERT = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "parent_library", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
# Settings that make it more than a plain LoRA. vLLM refuses some of them and ignores the rest.
UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "modules_to_save": "modules_to_save (whole modules beside the LoRA)",
    "trainable_token_indices": "trainable token embeddings",
    "target_parameters": "LoRA on parameters (target_parameters), as of a mixture's fused experts",
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
_INSTEAD = {
    "use_dora": "make a plain LoRA that is close to it: lorecall adapters convert DIR --base DIR --out DIR",
    "target_parameters": "make a LoRA of each expert, which a GPU serves: lorecall adapters convert DIR"
    " --base DIR --out DIR; or train target_modules alone",
}
# Initialisations that leave the base's weights alone; the others (PiSSA, OLoRA, CorDA, LoftQ) change them.
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_MAX_PATTERNS = 480
_MAX_NAMES = 4096  # EVA gives every module a rank by its full name
_MAX_WAYS = 1 << 19
_WAYS_OF_STAR = 64  # a module's name is about as long
# Only ".*" may repeat, at most twice; alternatives multiply too, so the ways to match are counted.
_SAFE_PATTERN = re.compile(r"(?:[A-Za-z0-9_.^$|()\\-]|\[[0-9](?:-[0-9])?\]|\.\*)+", re.ASCII)


def check_config(config: Mapping[str, Any], settings: LoraSettings, *, max_rank: int) -> None:
    """Check that the engine would apply everything that a configuration asks for.

    Args:
        config: The JSON object in `adapter_config.json`.
        settings: The settings read from it.
        max_rank: The largest rank that the server has room for.

    Raises:
        ConfigRefusedError: It uses a feature that the engine lacks, an unsafe pattern or a rank over the limit.
    """
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise wrong_setting(Reason.NOT_LORA, "task_type", config["task_type"], '"CAUSAL_LM"')
    _check_features(config)
    ranks = [("r", settings.rank)]
    ranks += [(f"rank_pattern[{safe_repr(key)}]", rank) for key, rank in settings.rank_pattern.items()]
    stated = (
        "; lorecall adapters convert writes the ranks that its weights have" if settings.rank_pattern else ""
    )
    for name, rank in ranks:
        if rank > max_rank:
            raise ConfigRefusedError(
                Reason.RANK_TOO_LARGE,
                f"{name} is {rank}, over the server's maximum of {max_rank}",
                hint=f"start the server with --max-lora-rank {rank}, or train a smaller rank{stated}",
                param=name,
            )
    _check_patterns("rank_pattern", settings.rank_pattern)
    _check_patterns("alpha_pattern", settings.alpha_pattern)


def _check_features(config: Mapping[str, Any]) -> None:
    for key, feature in UNSUPPORTED.items():
        if _asks_for(config.get(key)):
            raise ConfigRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                f"the adapter uses {feature}, which the engine does not apply",
                hint=_INSTEAD.get(key, f"train it without {key}"),
                param=key,
            )
    if config.get("bias", "none") != "none":
        raise wrong_setting(
            Reason.UNSUPPORTED_FEATURE, "bias", config["bias"], '"none": the engine applies no bias'
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and not is_harmless(init):
        raise ConfigRefusedError(
            Reason.UNSUPPORTED_FEATURE,
            f"init_lora_weights is {safe_repr(init)}, which changes the base's weights under PEFT",
            hint="make a plain LoRA of it: lorecall adapters convert DIR --initial DIR --out DIR",
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


def is_harmless(init: str) -> bool:
    """Return whether an initialisation leaves the base's weights alone, so that its adapter is a plain LoRA."""
    return init.casefold() in _HARMLESS_INITS


def _asks_for(value: object) -> bool:
    """Return whether a setting asks for anything: a map of empty lists, as of trainable tokens, does not."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _check_patterns(key: str, patterns: Mapping[str, object]) -> None:
    expressions = sum(not is_name(pattern) for pattern in patterns)
    if len(patterns) > _MAX_NAMES or expressions > _MAX_PATTERNS:
        raise wrong_setting(Reason.BAD_SETTING, key, patterns, "a map from module names to numbers")
    ways = 0
    for pattern in patterns:
        # vLLM matches these as regular expressions, for every module, in the engine's process.
        safe = len(pattern) <= 200 and pattern.count(".*") <= 2 and _SAFE_PATTERN.fullmatch(pattern)
        ways += _ways(pattern) if safe else 0
        if not safe or ways > _MAX_WAYS or not _compiles(pattern):
            raise ConfigRefusedError(
                Reason.UNSAFE_PATTERN,
                f"{key} has the pattern {safe_repr(pattern)}, which could hold up the engine",
                hint="use module names; groups, ranges of digits and .* (at most twice) may be in them",
                param=key,
            )


def _ways(pattern: str) -> int:
    """Bound the ways in which a safe pattern can be tried: twenty times `(|)` would be tried a million times."""
    plain = re.sub(r"\\.", "", pattern)
    alternatives, ways = [1], int(_WAYS_OF_STAR ** plain.count(".*"))
    for character in plain:
        if character == "(":
            alternatives.append(1)
        elif character == "|":
            alternatives[-1] += 1
        elif character == ")":
            ways *= alternatives.pop() if len(alternatives) > 1 else 1
    return ways * math.prod(alternatives)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(f"({pattern})")
    except (re.error, RecursionError, OverflowError):
        return False
    return True
