"""Validate an adapter before anything loads it: it passes every check, or is refused with the reason."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.adapters.core.refusals import BaseMismatchError, Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.peft_format.adapter import Adapter, OpenAdapter, open_adapter
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.validation.base_facts import BaseFacts, base_name
from lorecall.adapters.validation.config_checks import check_config
from lorecall.adapters.validation.weight_checks import check_frozen, check_kinds, check_pairs, check_values


@dataclass(frozen=True)
class AdapterLimits:
    """Which adapters a server accepts.

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


def validate_adapter(
    path: Path,
    base: BaseFacts,
    limits: AdapterLimits,
    *,
    version: str = "",
    training: dict[str, Any] | None = None,
) -> Adapter:
    """Check an adapter directory against a base and a server's limits. No torch, no pickle, bounded memory.

    Args:
        path: A PEFT directory, best the store's copy: nobody changes its bytes between the check and the load.
        base: What it must fit.
        limits: Which adapters the server accepts.
        version: Its digest where the store has just computed it; "" to hash the files.
        training: Its training record where the caller keeps it; None to read the directory's.

    Returns:
        What the adapter is.

    Raises:
        RefusedError: The first thing found wrong; its `reason` is a stable code.
    """
    with open_adapter(path, training=training) as files:
        check_config(files.config, files.settings, max_rank=limits.max_rank)
        _check_base(files, base, limits)
        check_kinds(files.lora)
        check_pairs(
            files.lora.pairs,
            files.settings,
            base,
            served_modules=limits.served_modules,
            max_scaling=limits.max_scaling,
        )
        check_frozen(files.lora.frozen, base)
        check_values(files.weights, files.tensors)
        _check_library(path, {tensor.name for tensor in files.tensors})
        return files.adapter(version)


def _check_base(files: OpenAdapter, base: BaseFacts, limits: AdapterLimits) -> None:
    """Compare digests if both sides have one, else names; without either, the limits decide."""
    digest, stated = files.base_digest, files.settings.base_model
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
    """Check that the safetensors library, which the engine uses, sees the same tensors as our parser."""
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
