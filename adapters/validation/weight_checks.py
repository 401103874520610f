"""Checks of the weights: every tensor is one half of a LoRA pair that fits a module of the base."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from lorecall.adapters.core.refusals import (
    BaseMismatchError,
    Reason,
    RefusedError,
    WeightsRefusedError,
    safe_repr,
)
from lorecall.adapters.peft_format.config import LoraSettings
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.peft_format.patterns import Targets
from lorecall.adapters.peft_format.safetensors_header import TensorEntry
from lorecall.adapters.peft_format.weights import PREFIX, LoraPair, LoraTensors, not_lora
from lorecall.adapters.validation.base_facts import BaseFacts

# Per dtype: the integer to view it as, the bits of its exponent (all set in NaN and the infinities), and the
# bits above which an engine in float16 overflows, and one in bfloat16 or float32.
_FLOATS = {
    "F16": ("<u2", 0x7C00, 0x7BFF, 0x7BFF),
    "BF16": ("<u2", 0x7F80, 0x477F, 0x7F7F),
    "F32": ("<u4", 0x7F800000, 0x477FEFFF, 0x7F7F7FFF),
}
_VOCABULARY = re.compile(
    re.escape(PREFIX) + r"(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))\.(?:base_layer\.)?weight"
)
_EXPERT = re.compile(r"\.experts\.\d+\.")
_CHUNK_BYTES = 1 << 18


def check_kinds(lora: LoraTensors, base: BaseFacts) -> None:
    """Check that the file holds nothing but LoRA matrices of a served dtype, and frozen weights of the base.

    Raises:
        BaseMismatchError: Tokens were added to the vocabulary.
        WeightsRefusedError: A tensor is something else, or has another dtype.
    """
    for tensor in (*lora.others, *lora.frozen.values()):
        match = _VOCABULARY.fullmatch(tensor.name)
        widths = base.modules.get(match["module"]) if match is not None else None
        if match is None or widths is None or len(tensor.shape) != 2:
            continue
        vocabulary = widths[0] if match["module"] in base.embeddings else widths[1]
        if tensor.shape[0] > vocabulary:
            raise BaseMismatchError(
                Reason.BAD_SHAPE,
                f"{tensor.shape[0] - vocabulary} tokens were added to the vocabulary: {safe_repr(tensor.name)}"
                f" has {tensor.shape[0]} rows, the base {vocabulary}",
                hint="all adapters share the base's vocabulary: train without added tokens",
                param=WEIGHTS_FILE,
            )
    empty = next((tensor for tensor in lora.others if 0 in tensor.shape), None)
    if empty is not None:
        raise WeightsRefusedError(
            Reason.UNSUPPORTED_FEATURE,
            f"{safe_repr(empty.name)}, which has no numbers, is no part of a plain LoRA",
            hint="leave it out: lorecall adapters convert DIR --out DIR",
            param=WEIGHTS_FILE,
        )
    if lora.others:
        raise not_lora(lora.others[0].name)
    for tensor in (tensor for pair in lora.pairs.values() for tensor in pair):
        if tensor.dtype not in _FLOATS:
            raise WeightsRefusedError(
                Reason.BAD_DTYPE,
                f"{safe_repr(tensor.name)} is {tensor.dtype}",
                hint="save it as float32, bfloat16 or float16",
                param=WEIGHTS_FILE,
            )


def check_pairs(
    pairs: Mapping[str, LoraPair],
    settings: LoraSettings,
    targets: Targets,
    base: BaseFacts,
    *,
    served_modules: frozenset[str] | None,
    max_scaling: float,
    why_not_served: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check modules, shapes, ranks and scales against the base and the configuration.

    Args:
        pairs: The LoRA matrices by module.
        settings: From the configuration, after `check_config`.
        targets: The modules that the configuration names.
        base: What the adapter must fit.
        served_modules: Last parts of the names of the modules that the engine wraps, "experts" for those of a
            mixture; None for all.
        max_scaling: The largest factor on B·A.
        why_not_served: Why the engine wraps none of a name, by the last part of that.

    Raises:
        BaseMismatchError: A module that the base or the engine lacks, or a shape that does not fit it.
        WeightsRefusedError: A rank that is not the configuration's, a missing module or an absurd scale.
    """
    for module, pair in pairs.items():
        if module not in base.modules:
            raise BaseMismatchError(
                Reason.UNKNOWN_MODULE,
                f"the base has no module {safe_repr(module)}",
                hint="an adapter of another base; or one with another trainer's names: lorecall adapters convert",
                param=WEIGHTS_FILE,
            )
        suffix = "experts" if _EXPERT.search(module) else module.rpartition(".")[2]
        if served_modules is not None and suffix not in served_modules:
            served = f"served here: {', '.join(sorted(served_modules))}"
            raise BaseMismatchError(
                Reason.MODULE_NOT_SERVED,
                f"the server puts no adapters on {safe_repr(suffix)}: they would be silently left out",
                hint="; ".join(filter(None, (served, why_not_served.get(suffix)))),
                param="target_modules",
            )
        _check_shapes(module, pair, settings, base)
        if settings.scaling_of(module) > max_scaling:
            raise WeightsRefusedError(
                Reason.ABSURD_SCALING,
                f"alpha over rank is {settings.scaling_of(module):g} for {safe_repr(module)}",
                hint=f"it must be at most {max_scaling:g}",
                param="lora_alpha",
            )
    _check_targets(pairs, settings, targets, base)


def check_frozen(frozen: Mapping[str, TensorEntry], base: BaseFacts) -> None:
    """Check that weights of the base that were saved too have the base's shape: a grown vocabulary is not served.

    Args:
        frozen: Weights of the base by module.
        base: What the adapter must fit.

    Raises:
        BaseMismatchError: One has another shape.
    """
    for module, tensor in frozen.items():
        expected = base.modules.get(module, (0, 0))
        if tensor.dtype not in _FLOATS or sorted(tensor.shape) != sorted(expected):
            raise _misshapen(Reason.BAD_SHAPE, tensor, "the base's own: a changed vocabulary is not served")


def check_values(source: BinaryIO, tensors: Iterable[TensorEntry], *, half: bool = True) -> frozenset[str]:
    """Check that every value is finite in the engine's precision.

    Args:
        source: The weights file.
        tensors: Its tensors, after `check_kinds` and `check_frozen`.
        half: Whether the engine runs in float16.

    Returns:
        The names of the tensors that are all zero.

    Raises:
        WeightsRefusedError: NaN, an infinity, or with `half` a magnitude over 65504.
    """
    found: dict[str, int] = {}
    for pieces in _pieces(tensors):
        integer, exponent, in_half, in_full = _FLOATS[pieces[0].dtype]
        kind = np.dtype(integer)
        source.seek(pieces[0].begin)
        values = np.frombuffer(source.read(pieces[-1].end - pieces[0].begin), kind)
        starts = [(piece.begin - pieces[0].begin) // kind.itemsize for piece in pieces]
        largest = np.maximum.reduceat(values & kind.type((1 << (8 * kind.itemsize - 1)) - 1), starts)
        for piece, bits in zip(pieces, largest.tolist(), strict=True):
            if bits > (in_half if half else in_full):
                fits = "float16" if half else "bfloat16"
                what = "NaN or infinite" if bits >= exponent else f"too large for {fits}"
                raise not_finite(piece.name, what)
            found[piece.name] = max(bits, found.get(piece.name, 0))
    return frozenset(name for name, bits in found.items() if not bits)


def _pieces(tensors: Iterable[TensorEntry]) -> Iterator[list[TensorEntry]]:
    """Yield what is read at once, up to `_CHUNK_BYTES`: neighbours of one dtype, or a part of a large tensor."""
    group: list[TensorEntry] = []
    for tensor in tensors:
        parts = range(tensor.begin, tensor.end, _CHUNK_BYTES)
        for begin in parts:
            end = min(begin + _CHUNK_BYTES, tensor.end)
            piece = tensor if len(parts) == 1 else replace(tensor, begin=begin, end=end)
            apart = group and (piece.begin, piece.dtype) != (group[-1].end, group[-1].dtype)
            if group and (apart or piece.end - group[0].begin > _CHUNK_BYTES):
                yield group
                group = []
            group.append(piece)
    if group:
        yield group


def not_finite(name: str, what: str = "NaN or infinite") -> WeightsRefusedError:
    """Return the refusal of values that no engine can use."""
    return WeightsRefusedError(
        Reason.NOT_FINITE,
        f"{safe_repr(name)} has values that are {what}",
        hint="the training diverged: train it again with a lower learning rate",
        param=WEIGHTS_FILE,
    )


def _check_shapes(module: str, pair: LoraPair, settings: LoraSettings, base: BaseFacts) -> None:
    d_in, d_out = base.modules[module]
    rank = settings.rank_of(module)
    a, b = pair
    for tensor in pair:
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            reason = Reason.EMPTY if 0 in tensor.shape else Reason.BAD_SHAPE
            raise _misshapen(reason, tensor, "two dimensions, none of them zero")
        if ("lora_embedding_" in tensor.name) != (module in base.embeddings):
            raise not_lora(tensor.name)
    if (a.shape[1], b.shape[0]) != (d_in, d_out):
        wrong = a if a.shape[1] != d_in else b
        raise _misshapen(Reason.BAD_SHAPE, wrong, f"A [{rank}, {d_in}] and B [{d_out}, {rank}] for this base")
    if (a.shape[0], b.shape[1]) != (rank, rank):
        wrong = a if a.shape[0] != rank else b
        raise _misshapen(Reason.RANK_MISMATCH, wrong, f"rank {rank}, as the configuration says")


def _check_targets(
    pairs: Mapping[str, LoraPair], settings: LoraSettings, targets: Targets, base: BaseFacts
) -> None:
    """Refuse what PEFT and the engine would apply differently.

    PEFT leaves out modules of the file that the configuration does not name, and the engine applies them. A
    listed target without weights is left out by both in silence. One that the base lacks is nothing to both.
    """
    for module, pair in pairs.items():
        if module not in targets:
            raise WeightsRefusedError(
                Reason.UNEXPECTED_TENSOR,
                f"the weights file has {safe_repr(pair.a.name)}, but the configuration does not name that module",
                hint="PEFT leaves it out, the engine would not: `lorecall adapters convert` leaves it out; or"
                " name it in target_modules (layers_to_transform, exclude_modules)",
                param="target_modules",
            )
    head_left_out = any(pair.of_embedding for pair in pairs.values()) and "lm_head" not in pairs
    if targets.ties_head and base.tied and head_left_out:
        raise WeightsRefusedError(
            Reason.INCOMPLETE,
            "ensure_weight_tying adapts the head as the embeddings, but there are no weights for lm_head",
            hint="PEFT makes them from those of the embeddings, the engine does not: save the adapter with PEFT",
            param="ensure_weight_tying",
        )
    for target in settings.target_modules:
        if any(_named(module, target) for module in pairs):
            continue
        if any(_named(module, target) and module in targets for module in base.modules):
            raise WeightsRefusedError(
                Reason.INCOMPLETE,
                f"target_modules lists {safe_repr(target)}, but there are no weights for it",
                hint="the file is not whole: save the adapter again",
                param="target_modules",
            )


def _named(module: str, target: str) -> bool:
    return module == target or module.endswith("." + target)


def _misshapen(reason: Reason, tensor: TensorEntry, right: str) -> RefusedError:
    kind = BaseMismatchError if reason is Reason.BAD_SHAPE else WeightsRefusedError
    return kind(
        reason,
        f"{safe_repr(tensor.name)} has the shape {list(tensor.shape)}",
        hint=f"it must be {right}",
        param=WEIGHTS_FILE,
    )
