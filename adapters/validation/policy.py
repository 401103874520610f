"""Validation before anything loads: an adapter passes whole, or is refused with what and why."""

from dataclasses import dataclass
from pathlib import Path

from lorecall.adapters.core.refusals import (
    BaseMismatchError,
    FileRefusedError,
    Reason,
    WeightsRefusedError,
    safe_repr,
)
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.adapter import Adapter, read_adapter
from lorecall.adapters.peft_format.config import read_settings
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, open_plain
from lorecall.adapters.peft_format.safetensors_header import read_header
from lorecall.adapters.validation.base_facts import BaseFacts, base_name
from lorecall.adapters.validation.weight_checks import check_frozen, check_pairs, check_values, pair_up

MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a server can take.

    Attributes:
        max_rank: vLLM's `--max-lora-rank`.
        served_modules: Last parts of the names of the modules that the engine wraps; None for all.
        max_scaling: The largest factor on B·A (alpha/rank, or alpha/√rank).
        require_base: Refuse adapters that state neither the digest nor a name of their base.
    """

    max_rank: int
    served_modules: frozenset[str] | None = None
    max_scaling: float = 256.0
    require_base: bool = True


def validate_adapter(path: Path, base: BaseFacts, limits: Limits) -> Adapter:
    """Check an adapter directory against a base and a server's limits. No torch, no pickle, bounded memory.

    Args:
        path: A PEFT directory, best a copy of the store's: bytes that nobody changes between check and load.
        base: What it must fit.
        limits: What the server can take.

    Returns:
        What the adapter is.

    Raises:
        RefusedError: The first thing found wrong; its `reason` is a stable code.
    """
    settings = read_settings(_read_json(path, CONFIG_FILE), max_rank=limits.max_rank)
    _check_base(path, settings.base_model, base, limits)
    with open_plain(path, WEIGHTS_FILE) as weights:
        tensors = read_header(weights)
        pairs = pair_up(tensors)
        check_pairs(
            pairs, settings, base, served_modules=limits.served_modules, max_scaling=limits.max_scaling
        )
        check_frozen(tensors, base)
        check_values(weights, tensors)
    _check_library(path, {tensor.name for tensor in tensors})
    return read_adapter(path)


def _read_json(path: Path, name: str) -> bytes:
    with open_plain(path, name) as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise FileRefusedError(
            Reason.TOO_LARGE,
            f"{name} is larger than {MAX_JSON_BYTES} bytes",
            hint="it is a short JSON file",
            param=name,
        )
    return raw


def _check_base(path: Path, stated: str, base: BaseFacts, limits: Limits) -> None:
    """A digest decides where both sides have one; else the name; else, if allowed, the shapes alone."""
    digest = ""
    if (path / TRAINING_FILE).exists():
        digest = str(parse_object(_read_json(path, TRAINING_FILE), TRAINING_FILE).get("base_digest") or "")
    if digest and base.digest:
        if digest != base.digest:
            raise BaseMismatchError(
                Reason.WRONG_BASE,
                f"the adapter was trained on the base with digest {safe_repr(digest, 20)}",
                hint=f"this server's base has {base.digest[:16]}; train it on that one",
                param="base_digest",
            )
    elif stated:
        if base_name(stated) not in base.names:
            raise BaseMismatchError(
                Reason.WRONG_BASE,
                f"the adapter states the base {safe_repr(stated)}",
                hint="this server's base is known as " + ", ".join(sorted(base.names)),
                param="base_model_name_or_path",
            )
    elif limits.require_base:
        raise BaseMismatchError(
            Reason.BASE_UNSTATED,
            "the adapter does not say which base it is for",
            hint="set base_model_name_or_path in adapter_config.json",
            param="base_model_name_or_path",
        )


def _check_library(path: Path, names: set[str]) -> None:
    """The engine reads the file with the safetensors library: it must see what was checked here."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  # keeps `--help` quick

    try:
        with safe_open(path / WEIGHTS_FILE, framework="numpy") as file:
            seen = set(file.keys())
    except SafetensorError as error:
        raise WeightsRefusedError(
            Reason.BAD_HEADER,
            f"safetensors cannot read the weights: {error}",
            hint="save them again",
            param=WEIGHTS_FILE,
        ) from error
    if seen != names:
        raise WeightsRefusedError(
            Reason.BAD_HEADER,
            f"safetensors sees other tensors: {safe_repr(sorted(seen ^ names))}",
            hint="save the adapter again",
            param=WEIGHTS_FILE,
        )
