"""The options of a training run, and their checks against the base before anything is computed."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.adapters.training.losses import METHODS
from lorecall.adapters.training.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Iterable

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
DEVICES = ("auto", "cpu", "cuda")
GROUPS = {"attention": ATTENTION, "mlp": MLP, "all": (*ATTENTION, *MLP)}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of one run.

    Attributes:
        rank: LoRA rank r; alpha is the same, so the update is B·A.
        method: A member of `METHODS`.
        layers: "all", or indices and ranges such as "20-29" or "3,7"; "" is the last layer but one.
        modules: "mlp", "attention", "all" or module names, separated by commas.
        epochs: The largest number of passes over the data.
        lr: Initial learning rate.
        schedule: A member of `SCHEDULES`: how the rate falls, and when a training ends before its epochs do.
        batch_size: Texts in one step.
        seed: Seed of the initialisation and of the order of the texts.
        dropout: Chance that an input of the adapter counts as 0 in a step; the others are scaled up.
        stop_over: Stop after an epoch in which every target token's probability is over this; 1 never stops.
        device: A member of `DEVICES`; "auto" is a CUDA GPU where there is one.
    """

    rank: int
    method: str = "sft"
    layers: str = ""
    modules: str = "mlp"
    epochs: int = 40
    lr: float = 1e-2
    schedule: str = "linear"
    batch_size: int = 8
    seed: int = 0
    dropout: float = 0.0
    stop_over: float = 0.9
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that are wrong for every base."""
        for name in ("rank", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}", hint="a whole number from 1", param=name)
        if not 0 < self.lr < 1:
            raise UsageError(f"learning rate is {self.lr}", hint="a number between 0 and 1", param="lr")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}", hint="a number from 0, under 1", param="dropout")
        if not 0 < self.stop_over <= 1:
            raise UsageError(
                f"stop-over is {self.stop_over}", hint="a probability over 0, up to 1", param="stop_over"
            )
        if self.device not in DEVICES:
            raise UsageError(
                f"unknown device {self.device!r}", hint=f"one of {', '.join(DEVICES)}", param="device"
            )
        for name, known in (("method", METHODS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {name} {getattr(self, name)!r}", hint=f"one of {', '.join(known)}", param=name
                )
        if self.schedule == "plateau" and self.method == "memft-sw":
            raise UsageError(
                "schedule 'plateau' with memft-sw, which takes its texts by parts of all epochs",
                hint="linear",
                param="schedule",
            )


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Return the layer indices that `text` names, of a base with `count` layers.

    "" is the last layer but one: few layers run at every step, and one attention layer still follows.

    Raises:
        UsageError: It holds something else than indices and ranges, or a layer that the base lacks.
    """
    if text == "all":
        return tuple(range(count))
    if not text:
        return (max(count - 2, 0),)
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise UsageError(
                f"layers {text!r}", hint='"all", or indices and ranges such as 20-29 or 3,7', param="layers"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= count:
            raise UsageError(
                f"layers {part.strip()} of a base with {count}", hint=f"0 to {count - 1}", param="layers"
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def parse_modules(text: str, present: "Iterable[str]") -> tuple[str, ...]:
    """Return the module names that `text` names; `present` are the linear modules of the base's layers.

    Raises:
        UsageError: The layers have no such module.
    """
    names = GROUPS.get(text) or tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    known = sorted(set(present))
    for name in names:
        if name not in known:
            raise UsageError(
                f"the base has no module {name!r} in its layers",
                hint=f"mlp, attention, all, or names of {', '.join(known)}",
                param="modules",
            )
    return names


def check_rank(rank: int, widths: "Iterable[int]") -> None:
    """Refuse a rank over the smallest width of the adapted modules: B·A cannot have such a rank.

    Raises:
        AdapterError: It is too large.
    """
    smallest = min(widths)
    if rank > smallest:
        raise AdapterError(
            f"rank {rank} is over the width {smallest} of an adapted module",
            hint=f"1 to {smallest}",
            param="rank",
        )
