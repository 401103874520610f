"""Group the tensors of `adapter_model.safetensors`: the LoRA pairs by module, and everything else."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lorecall.adapters.core.refusals import Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.peft_format.safetensors_header import TensorEntry

PREFIX = "base_model.model."
_LORA = re.compile(
    re.escape(PREFIX) + r"(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<half>[AB]))"
)
# PEFT saves the frozen base weight too when it adapts an embedding or the head; vLLM ignores it, rightly.
_FROZEN = re.compile(re.escape(PREFIX) + r"(?P<module>(?:.+\.)?(?:embed_tokens|lm_head))\.base_layer\.weight")
_FEATURES = {
    ".lora_magnitude_vector": "DoRA",
    ".lora_B.bias": "LoRA bias",
    ".bias": "bias",
    ".trainable_tokens_delta": "trainable token embeddings",
    ".modules_to_save": "modules_to_save",
}


class LoraPair(NamedTuple):
    """The two matrices of one module: A has the shape (r, d_in), B (d_out, r)."""

    a: TensorEntry
    b: TensorEntry

    @property
    def of_embedding(self) -> bool:
        """Whether PEFT saved it as that of an embedding, whose input is a token."""
        return "lora_embedding_" in self.a.name


@dataclass(frozen=True, slots=True)
class LoraTensors:
    """The tensors of a weights file, grouped.

    Attributes:
        pairs: The LoRA matrices by module name.
        frozen: Unchanged weights of the base by module name.
        others: Tensors that are neither.
    """

    pairs: Mapping[str, LoraPair]
    frozen: Mapping[str, TensorEntry]
    others: tuple[TensorEntry, ...]


def group_tensors(tensors: Iterable[TensorEntry]) -> LoraTensors:
    """Group the tensors of a weights file.

    Raises:
        WeightsRefusedError: There is no LoRA matrix, or one without its partner.
    """
    sides: dict[str, dict[str, TensorEntry]] = {}
    frozen: dict[str, TensorEntry] = {}
    others: list[TensorEntry] = []
    for tensor in tensors:
        if match := _FROZEN.fullmatch(tensor.name):
            frozen[match["module"]] = tensor
        elif match := _LORA.fullmatch(tensor.name):
            side = match["side"] or match["half"]
            if sides.setdefault(match["module"], {}).setdefault(side, tensor) is not tensor:
                others.append(tensor)  # a second A or B, under the other naming
        else:
            others.append(tensor)
    if not sides and others:
        raise _without_lora(others)
    if not sides:
        raise WeightsRefusedError(
            Reason.EMPTY,
            "the weights file holds no tensor",
            hint="train the adapter first",
            param=WEIGHTS_FILE,
        )
    for module, found in sides.items():
        if len(found) < 2:
            raise WeightsRefusedError(
                Reason.INCOMPLETE,
                f"{safe_repr(module)} has only lora_{next(iter(found))}",
                hint="a LoRA has an A and a B for each module",
                param=WEIGHTS_FILE,
            )
    pairs = {module: LoraPair(found["A"], found["B"]) for module, found in sides.items()}
    return LoraTensors(pairs, frozen, tuple(others))


def _without_lora(others: list[TensorEntry]) -> WeightsRefusedError:
    """Return the refusal of a file without one LoRA matrix of PEFT's."""
    names = [tensor.name for tensor in others]
    if any(re.search(r"(?i)lora_[ab]", name) for name in names):
        odd = next(name for name in names if re.search(r"(?i)lora_[ab]", name))
        return WeightsRefusedError(
            Reason.UNEXPECTED_TENSOR,
            f"{safe_repr(odd)} is a LoRA, but not under a name of PEFT",
            hint="make a plain LoRA of it: lorecall adapters convert DIR --out DIR",
            param=WEIGHTS_FILE,
        )
    if all(name.endswith((".weight", ".bias")) and PREFIX not in name for name in names):
        return WeightsRefusedError(
            Reason.UNEXPECTED_TENSOR,
            f"the file holds a whole model ({safe_repr(names[0])}), not an adapter",
            hint="serve it as a base: lorecall base prepare --from DIR --out DIR; or give the adapter unmerged",
            param=WEIGHTS_FILE,
        )
    return not_lora(names[0])


def is_frozen(name: str) -> bool:
    """Return whether a tensor is an unchanged weight of the base that PEFT saved along."""
    return _FROZEN.fullmatch(name) is not None


def not_lora(name: str) -> WeightsRefusedError:
    """Return the refusal of a tensor that is no LoRA matrix, with the feature of PEFT that it belongs to."""
    for part, feature in _FEATURES.items():
        if name.endswith(part) or f"{part}." in name:
            return WeightsRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                f"{safe_repr(name)} belongs to {feature}, which the engine does not apply",
                hint="train a plain LoRA",
                param=WEIGHTS_FILE,
            )
    return WeightsRefusedError(
        Reason.UNEXPECTED_TENSOR,
        f"{safe_repr(name)} is no LoRA matrix of PEFT for this kind of module",
        hint="names are base_model.model.<module>.lora_A.weight and .lora_B.weight; lorecall adapters convert"
        " renames those of other trainers",
        param=WEIGHTS_FILE,
    )
