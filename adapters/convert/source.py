"""Read an adapter in any trainer's form: its settings, and the update of each module by its name in the base."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorecall.adapters.convert.experts import Parameters, twice
from lorecall.adapters.convert.lora_names import module_of_base, read_name
from lorecall.adapters.convert.raw_files import MLX_WEIGHTS, read_tensors, weights_files
from lorecall.adapters.convert.updates import Update
from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.config import read_settings, wrong_setting
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE, read_json_bytes
from lorecall.adapters.peft_format.patterns import Targets
from lorecall.adapters.peft_format.weights import is_frozen, not_lora
from lorecall.adapters.validation.base_facts import BaseFacts
from lorecall.adapters.validation.config_checks import check_config
from lorecall.adapters.validation.weight_checks import not_finite

if TYPE_CHECKING:
    import torch

_ANY_RANK = 1 << 20
_CONVERTED = {"use_dora": False, "init_lora_weights": True, "corda_config": None, "target_parameters": None}
"""What `check_config` would refuse, and a conversion takes out."""
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Source:
    """An adapter as its trainer saved it.

    Attributes:
        config: Its settings, as PEFT's.
        updates: The LoRA of each module, by the module's name in the base.
        steps: What reading it changed, in sentences.
    """

    config: dict[str, Any]
    updates: dict[str, Update]
    steps: list[str]


def read_source(source: Path, base: BaseFacts | None = None) -> Source:
    """Read an adapter's folder, and leave out of it what its trainer does not apply.

    Args:
        source: The folder.
        base: The base, where it is at hand: names of modules are looked up in it.

    Raises:
        RefusedError: It is no LoRA, or not whole.
    """
    files = weights_files(source)
    raw = read_json_bytes(source, CONFIG_FILE, follow_links=True).removeprefix(codecs.BOM_UTF8)
    config = parse_object(raw, CONFIG_FILE)
    tensors = read_tensors(files)
    steps = [f"read from {len(files)} files"] if len(files) > 1 else []
    if files[0].suffix != ".safetensors":
        steps.append("read from PyTorch's format, without running code of it")
    parts = _grouped(tensors)
    if "peft_type" not in config or files[0].name == MLX_WEIGHTS:
        config = _from_mlx(config, parts)
        steps.append("converted from MLX: transposed")
    updates, dropped = _updates(parts, config, base)
    if not updates:
        raise WeightsRefusedError(
            Reason.EMPTY,
            "the configuration names none of the modules in the weights file",
            hint="PEFT would apply nothing of it: correct target_modules",
            param="target_modules",
        )
    if dropped:
        steps.append(f"left out what PEFT does not apply: {len(dropped)}, such as {safe_repr(dropped[0])}")
    return Source(config, updates, steps)


def _updates(
    parts: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any], base: BaseFacts | None
) -> tuple[dict[str, Update], list[str]]:
    """Return the updates by module of the base, and the modules of the file that the configuration leaves out."""
    settings = read_settings(config)
    check_config({**config, **_CONVERTED}, settings, max_rank=_ANY_RANK)
    dora = config.get("use_dora") or False
    if not isinstance(dora, bool):
        raise wrong_setting(Reason.BAD_SETTING, "use_dora", dora, "true or false")
    tinker = any("unembed_tokens" in module for module in parts)  # it adapts its head under "all-linear"
    targets, parameters = Targets(config), Parameters(config, parts, base)
    updates, of_parameters, dropped = dict[str, Update](), dict[str, Update](), list[str]()
    for module, found in parts.items():
        key = parameters.key(module)
        name = module_of_base(module, base.modules if base is not None else ())
        if not (key or tinker or module in targets or name in targets):
            dropped.append(module)
            continue
        if name in updates:
            raise twice(name)
        rank = settings.rank_of(key or module) * parameters.experts(key)
        update = _update(module, found, rank, settings.scaling_of(key or module), dora=dora)
        (of_parameters if key else updates)[key or name] = update
    made = parameters.of_modules(of_parameters)
    if both := made.keys() & updates:
        raise twice(min(both))
    return updates | made, dropped


def _grouped(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, dict[str, Any]]:
    """Return the parts of each module's LoRA."""
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        part = read_name(name)
        if part is None:
            if not is_frozen(name) and tensor.numel():
                raise not_lora(name)
            continue
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind == "float64":
            tensor = tensor.float()  # noqa: PLW2901  # the same tensor in a served precision
        elif kind not in _DTYPES:
            raise WeightsRefusedError(
                Reason.BAD_DTYPE,
                f"{safe_repr(name)} is {kind}",
                hint="save it as float32, bfloat16 or float16",
                param=WEIGHTS_FILE,
            )
        if not tensor.isfinite().all():
            raise not_finite(name)
        if tensor.dim() != (1 if part.kind == "m" else 2) and not (part.kind == "m" and tensor.dim() == 2):
            raise WeightsRefusedError(
                Reason.BAD_SHAPE,
                f"{safe_repr(name)} has the shape {list(tensor.shape)}",
                hint="each module needs matrices of its own: those of fused experts are not converted",
                param=WEIGHTS_FILE,
            )
        of_module = parts.setdefault(part.module, {"embedding": part.embedding})
        if part.kind in of_module:
            raise WeightsRefusedError(
                Reason.DUPLICATE_KEY, f"{safe_repr(name)} is there twice, under two names", param=WEIGHTS_FILE
            )
        of_module[part.kind] = tensor.T if part.transposed else tensor
    if not parts:
        raise WeightsRefusedError(
            Reason.EMPTY, "the weights file holds no LoRA", hint="train the adapter first", param=WEIGHTS_FILE
        )
    return parts


def _update(module: str, found: Mapping[str, Any], rank: int, scaling: float, *, dora: bool) -> Update:
    a, b, magnitude = found.get("A"), found.get("B"), found.get("m")
    lacking = [name for name, one in (("A", a), ("B", b)) if one is None]
    lacking += ["m"] if dora and magnitude is None else []
    if a is None or b is None or lacking:
        raise WeightsRefusedError(
            Reason.INCOMPLETE,
            f"{safe_repr(module)} has no {lacking[0]}",
            hint="the file is not whole: save the adapter again",
            param=WEIGHTS_FILE,
        )
    if a.shape[0] != rank:
        raise WeightsRefusedError(
            Reason.RANK_MISMATCH,
            f"{safe_repr(module)} has rank {a.shape[0]}, not {rank} as stated",
            hint="the configuration is of another adapter",
            param="r",
        )
    misfit = a.shape[0] != b.shape[1] or (magnitude is not None and magnitude.numel() != b.shape[0])
    if misfit or 0 in (*a.shape, *b.shape):
        more = "" if magnitude is None else f" and magnitudes {list(magnitude.shape)}"
        raise WeightsRefusedError(
            Reason.BAD_SHAPE,
            f"{safe_repr(module)} has A {list(a.shape)} and B {list(b.shape)}{more}",
            hint="A is (r, d_in), B is (d_out, r), magnitudes are (d_out,)",
            param=WEIGHTS_FILE,
        )
    if magnitude is not None and not dora:
        raise ConfigRefusedError(
            Reason.BAD_SETTING,
            f"{safe_repr(module)} has magnitudes of DoRA, but the configuration does not say use_dora",
            hint="set use_dora to true if it was trained so; PEFT would leave them out",
            param="use_dora",
        )
    return Update(a, b, scaling, magnitude, bool(found["embedding"]))


def _from_mlx(config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter of MLX, which adds scale * (x @ lora_a) @ lora_b."""
    given = config.get("lora_parameters")
    scale = given.get("scale") if isinstance(given, dict) else None
    if config.get("fine_tune_type", "lora") != "lora" or not isinstance(scale, int | float):
        raise ConfigRefusedError(
            Reason.NOT_LORA,
            f"{CONFIG_FILE} is neither PEFT's nor that of a LoRA of MLX",
            hint="a LoRA of MLX has fine_tune_type lora and a scale in lora_parameters",
            param=CONFIG_FILE,
        )
    ranks = {module: int(found["A"].shape[0]) for module, found in parts.items() if "A" in found}
    rank = max(ranks.values(), default=1)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": config.get("model"),
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: scale * own for module, own in ranks.items() if own != rank},
        "target_modules": sorted(parts),
    }
