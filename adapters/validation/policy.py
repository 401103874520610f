"""Validate an adapter before anything loads it: it passes every check, or is refused with the reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorecall.adapters.bases.names import base_name, is_folder, model_name, plain_name
from lorecall.adapters.core.refusals import BaseMismatchError, Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.peft_format.adapter import Adapter, OpenAdapter, open_adapter
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.peft_format.patterns import Targets
from lorecall.adapters.validation.base_facts import BaseFacts, layers_of
from lorecall.adapters.validation.config_checks import check_config
from lorecall.adapters.validation.weight_checks import check_frozen, check_kinds, check_pairs, check_values


@dataclass(frozen=True)
class AdapterLimits:
    """Which adapters a server accepts.

    Attributes:
        max_rank: vLLM's `--max-lora-rank`.
        served_modules: Last parts of the names of the modules that the engine wraps; None for all.
        max_scaling: The largest factor on B·A (alpha/rank, or alpha/√rank).
        half: Whether the engine runs in float16, which has no numbers over 65504.
        require_base: Refuse adapters that state neither the digest nor a name of their base.
        why_not_served: Why the engine wraps no modules of a name, by the last part of that; of others there is no
            more to say.
        vocabulary_scored: Whether the engine's scores of given texts show adapters of head and embeddings.
    """

    max_rank: int
    served_modules: frozenset[str] | None = None
    max_scaling: float = 256.0
    half: bool = True
    require_base: bool = True
    why_not_served: Mapping[str, str] = field(default_factory=dict)
    vocabulary_scored: bool = False


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
        What the adapter is, with remarks on what its owner should know of how it is served.

    Raises:
        RefusedError: The first thing found wrong; its `reason` is a stable code.
    """
    with open_adapter(path, training=training) as files:
        check_config(files.config, files.settings, max_rank=limits.max_rank)
        remarks = _check_base(files, base, limits)
        check_kinds(files.lora, base)
        check_pairs(
            files.lora.pairs,
            files.settings,
            Targets(files.config),
            base,
            served_modules=limits.served_modules,
            why_not_served=limits.why_not_served,
            max_scaling=limits.max_scaling,
        )
        check_frozen(files.lora.frozen, base)
        zero = check_values(files.weights, files.tensors, half=limits.half)
        if all(pair.b.name in zero for pair in files.lora.pairs.values()):
            remarks.append("every lora_B is zero: it changes nothing, as before its training")
        _check_library(path, {tensor.name for tensor in files.tensors})
        adapter = files.adapter(version, vocabulary_scored=limits.vocabulary_scored)
        return replace(adapter, remarks=tuple(remarks))


def _check_base(files: OpenAdapter, base: BaseFacts, limits: AdapterLimits) -> list[str]:
    """Compare digests if both sides have one, else names; without either, the limits decide.

    Returns:
        Remarks on a base that is stated under another name and was taken for this one.
    """
    digest, stated = files.base_digest, files.settings.base_model
    same_name = not stated or base_name(stated) in base.names
    if digest and base.digest:
        if digest != base.digest:
            raise BaseMismatchError(
                Reason.WRONG_BASE,
                f"the adapter was trained on the base with digest {safe_repr(digest, 20)}",
                hint=f"this server's base has {base.digest[:16]}; train it on that one",
                param="base_digest",
            )
        return [] if same_name else [f"it states the base {_said(stated)}; its digest is this base's"]
    if stated and same_name:
        return (
            []
            if plain_name(stated) in base.names
            else [f"it states {_said(stated)}, another copy of this base"]
        )
    if stated:
        return [_same_architecture(files, base, stated)]
    if limits.require_base:
        raise BaseMismatchError(
            Reason.BASE_UNSTATED,
            "the adapter does not say which base it is for",
            hint="set base_model_name_or_path in adapter_config.json",
            param="base_model_name_or_path",
        )
    return ["it does not say which base it is for"]


def _same_architecture(files: OpenAdapter, base: BaseFacts, stated: str) -> str:
    """Take an adapter whose base was a folder of any name, if all that can be compared agrees with this base.

    That is the class of the model where the configuration states it, and otherwise that it adapts every layer of
    this base and no other; the shapes are checked in any case. A hub id that names another model is believed.

    Returns:
        The remark.

    Raises:
        BaseMismatchError: It may be another base.
    """
    mapping = files.config.get("auto_mapping")
    stated_class = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    same_layers = layers_of(files.lora.pairs) == base.layers()
    agrees = stated_class in base.architectures if stated_class else same_layers
    if is_folder(stated) and agrees:
        return f"it states the base {_said(stated)}, a folder of that name; shapes and layers are this base's"
    raise BaseMismatchError(
        Reason.WRONG_BASE,
        f"the adapter states the base {safe_repr(stated)}",
        hint="this server's base is known as "
        + ", ".join(sorted(base.names))
        + "; if it is the same model under"
        f" another name, start the server with LORECALL_BASE_NAMES={_typed(base_name(stated))}",
        param="base_model_name_or_path",
    )


def _typed(name: str) -> str:
    """Return a name to type in a shell; that of a stranger only if it is plain."""
    return name if re.fullmatch(r"[a-z0-9._-]{1,96}", name) else "NAME"


def _said(stated: str) -> str:
    """Return a stated base without the folders of somebody's machine, for a remark."""
    return safe_repr(model_name(stated) if is_folder(stated) else stated)


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
