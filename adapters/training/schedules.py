"""How the learning rate falls, and when a training has nothing left to gain."""

import math
from typing import TYPE_CHECKING, Protocol

from lorecall.adapters.core.errors import UsageError

if TYPE_CHECKING:
    import torch

SCHEDULES = ("linear", "plateau")


class Schedule(Protocol):
    """Sets the learning rate of an optimiser."""

    def after_step(self) -> None:
        """Adapt the rate after a step."""
        ...

    def after_epoch(self, loss: float) -> bool:
        """Adapt the rate after an epoch with this mean loss in nats; return whether to stop."""
        ...


class Linear:
    """Falls linearly to 0 over all steps; never stops early."""

    def __init__(self, optimizer: "torch.optim.Optimizer", steps: int) -> None:
        from torch.optim.lr_scheduler import LambdaLR  # noqa: PLC0415

        self._rate = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))

    def after_step(self) -> None:
        """Take one part of the rate off."""
        self._rate.step()

    def after_epoch(self, loss: float) -> bool:  # noqa: ARG002
        """Return False."""
        return False


class Plateau:
    """Falls to 0.3 of itself after 20 epochs that lower the loss by less than 1 %; three times, then it stops.

    Where 20 epochs are fewer than 60 steps, as many epochs count as have 60. Fewer take the pause after the form
    of the lines is learned, and before their content is, for the end. It also stops at a mean loss of 0.02 nats:
    then the adapter holds all there is. What falls is PyTorch's ReduceLROnPlateau.
    """

    FACTOR, PATIENCE, LEAST_STEPS, THRESHOLD, FALLS, NOTHING_LEFT = 0.3, 20, 60, 0.01, 3, 0.02

    def __init__(self, optimizer: "torch.optim.Optimizer", steps_per_epoch: int) -> None:
        from torch.optim.lr_scheduler import ReduceLROnPlateau  # noqa: PLC0415

        patience = max(self.PATIENCE, math.ceil(self.LEAST_STEPS / steps_per_epoch))
        self._rate = ReduceLROnPlateau(
            optimizer, factor=self.FACTOR, patience=patience - 1, threshold=self.THRESHOLD
        )
        self._optimizer = optimizer
        self._least = optimizer.param_groups[0]["lr"] * self.FACTOR ** (self.FALLS - 0.5)

    def after_step(self) -> None:
        """Change nothing."""

    def after_epoch(self, loss: float) -> bool:
        """Let the rate fall if the loss no longer does; return whether that was the last time."""
        self._rate.step(loss)
        return loss < self.NOTHING_LEFT or bool(self._optimizer.param_groups[0]["lr"] < self._least)


def schedule_of(name: str, optimizer: "torch.optim.Optimizer", steps: int, steps_per_epoch: int) -> Schedule:
    """Return the schedule of that name for a training of at most `steps` steps.

    Raises:
        UsageError: There is no such schedule.
    """
    if name == "linear":
        return Linear(optimizer, steps)
    if name == "plateau":
        return Plateau(optimizer, steps_per_epoch)
    raise UsageError(f"unknown schedule {name!r}", hint=f"one of {', '.join(SCHEDULES)}", param="schedule")
