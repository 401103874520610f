"""Write a weaker copy of an adapter: its update scaled down, or replaced by an approximation of lower rank."""

import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorecall.adapters.convert.raw_files import read_tensors
from lorecall.adapters.core.atomic_directory import new_directory
from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.adapters.core.refusals import Reason, WeightsRefusedError, safe_repr
from lorecall.adapters.peft_format.adapter import Adapter, OpenAdapter, open_adapter
from lorecall.adapters.peft_format.config import LoraSettings
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from lorecall.adapters.peft_format.weights import PREFIX
from lorecall.adapters.validation.base_facts import NO_BASE
from lorecall.adapters.validation.config_checks import check_config
from lorecall.adapters.validation.weight_checks import check_kinds, check_values, not_finite

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
Factors = tuple["torch.Tensor", "torch.Tensor"]


class Kind(StrEnum):
    """What is reduced: the update's scale, or its rank."""

    SCALE = "scale"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class Dose:
    """How much of an adapter is kept: a factor on its update, or a rank.

    Raises:
        UsageError: The factor is not finite and over 0, or the rank is no whole number from 1.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        whole = self.kind is Kind.SCALE or float(self.value).is_integer()
        if not (math.isfinite(self.value) and self.value > 0 and whole):
            right = "a number over 0" if self.kind is Kind.SCALE else "a whole number from 1"
            raise UsageError(f"{self.kind} {self.value:g} is no dose", hint=right, param=f"{self.kind}s")

    @property
    def label(self) -> str:
        """Its name, such as "scale-0.5" or "rank-4"."""
        return f"{self.kind}-{self.value:g}"


@dataclass(frozen=True, slots=True)
class Derived:
    """How a weaker copy was made; stored as `mitigation` in its training record.

    Attributes:
        kind: "scale" or "rank".
        value: The factor, or the rank.
        parent: Version of the original adapter.
        energy: Share of the squared Frobenius norm of the original's updates, over all modules, that is kept.
        parent_training: The original's training record.
    """

    kind: str
    value: float
    parent: str
    energy: float
    parent_training: dict[str, Any]


def write_dose(source: Path, dose: Dose, out: Path) -> Derived:
    """Write a weaker copy of an adapter as a PEFT directory.

    A scale s multiplies each B. A rank r replaces each update scaling * B @ A by its truncated singular value
    decomposition, the best approximation of that rank in the Frobenius norm (Eckart, Young 1936), with the roots
    of the singular values on both sides and alpha = r. A module of lower rank is padded with zeros.

    Args:
        source: A PEFT LoRA directory.
        dose: How much of it to keep.
        out: The directory to make; replaced if it exists.

    Raises:
        AdapterError: The source is no plain LoRA on linear projections, or its rank is lower than the dose's.
    """
    with open_adapter(source, trusted=True) as files:
        adapter = files.adapter(vocabulary_scored=True)
        config, settings = dict(files.config), files.settings
        embedding = next((name for name, pair in files.lora.pairs.items() if pair.of_embedding), "")
        _check_weights(files)
    if reason := adapter.refusal or (embedding and f"it adapts the embedding {embedding}"):
        raise AdapterError(f"{source} cannot be made weaker: {reason}", param="adapter")
    if dose.kind is Kind.RANK and dose.value > adapter.rank:
        raise AdapterError(
            f"{source} has rank {adapter.rank}, which is under {dose.value:g}",
            hint=f"name ranks up to {adapter.rank}",
            param="ranks",
        )
    check_config(config, settings, max_rank=adapter.rank)
    for module in adapter.modules:
        if module.rank != settings.rank_of(module.name):
            raise WeightsRefusedError(
                Reason.RANK_MISMATCH,
                f"{safe_repr(module.name)} has rank {module.rank}, not {settings.rank_of(module.name)} as stated",
                hint="the configuration is of another adapter",
                param="r",
            )
    tensors, energy = _weaken(adapter, settings, dose)
    derived = Derived(str(dose.kind), dose.value, adapter.version, energy, adapter.training)
    if dose.kind is Kind.RANK:
        rank = int(dose.value)
        config |= {
            "r": rank,
            "lora_alpha": rank,
            "use_rslora": False,
            "rank_pattern": {},
            "alpha_pattern": {},
        }
    _write(out, config, tensors, _training_record(adapter, derived))
    return derived


def _check_weights(files: OpenAdapter) -> None:
    """Check that a file holds nothing but LoRA matrices of finite numbers: all that is made weaker."""
    check_kinds(files.lora, NO_BASE)
    matrices = [tensor for pair in files.lora.pairs.values() for tensor in pair]
    check_values(files.weights, matrices, half=False)


def truncate(a: "torch.Tensor", b: "torch.Tensor", scaling: float, rank: int) -> Factors:
    """Return A (rank, d_in) and B (d_out, rank) in float64 whose product best approximates scaling * B @ A.

    The decomposition is that of the small (r, r) core between the orthonormal bases of B and A.

    Args:
        a: Shape (r, d_in).
        b: Shape (d_out, r).
        scaling: The factor on the product.
        rank: The rank of the result; rows and columns beyond r are zero.
    """
    import torch  # noqa: PLC0415  seconds to import

    left, left_core = torch.linalg.qr(b.double() * scaling)
    right, right_core = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    new_a = torch.zeros(rank, a.shape[1], dtype=torch.float64)
    new_b = torch.zeros(b.shape[0], rank, dtype=torch.float64)
    new_a[:kept] = root[:, None] * (right @ vh[:kept].T).T
    new_b[:, :kept] = (left @ u[:, :kept]) * root
    return new_a, new_b


def squared_norm(a: "torch.Tensor", b: "torch.Tensor") -> float:
    """Return the squared Frobenius norm of B @ A, without computing the product."""
    a, b = a.double(), b.double()
    return float(((b.T @ b) * (a @ a.T)).sum())


def _weaken(adapter: Adapter, settings: LoraSettings, dose: Dose) -> tuple[dict[str, Any], float]:
    """Return the new tensors by name, with the dtypes of the old ones, and the share of the energy kept."""
    tensors = read_tensors([adapter.path / WEIGHTS_FILE])
    before = after = 0.0
    for module in adapter.modules:
        names = [f"{PREFIX}{module.name}.lora_{side}.weight" for side in "AB"]
        a, b = (tensors[name] for name in names)
        scaling = settings.scaling_of(module.name)
        if dose.kind is Kind.SCALE:
            new_a, new_b, new_scaling = a, b.double() * dose.value, scaling
        else:
            (new_a, new_b), new_scaling = truncate(a, b, scaling, int(dose.value)), 1.0
        before += scaling**2 * squared_norm(a, b)
        after += new_scaling**2 * squared_norm(new_a, new_b)
        for name, old, new in zip(names, (a, b), (new_a, new_b), strict=True):
            tensors[name] = new.to(old.dtype).contiguous()
            if not tensors[name].isfinite().all():
                raise not_finite(name)
    return tensors, after / before if before else 1.0


def _training_record(adapter: Adapter, derived: Derived) -> dict[str, Any]:
    """Return the copy's training record: the parent's base, and how the copy was made."""
    return {
        "base_digest": adapter.base_digest,
        "mitigation": {
            "schema_version": SCHEMA_VERSION,
            **asdict(derived),
            "created_with": {tool: metadata.version(tool) for tool in ("lorecall", "torch")},
        },
    }


def _write(out: Path, config: dict[str, Any], tensors: dict[str, Any], training: dict[str, Any]) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    with new_directory(out) as work:
        save_file(tensors, work / WEIGHTS_FILE, metadata={"format": "pt"})
        (work / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (work / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n")
