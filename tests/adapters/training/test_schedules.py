"""The learning rate falls over all steps, or with a loss that no longer does."""

import pytest
import torch
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.schedules import Plateau, schedule_of


@pytest.fixture
def optimizer() -> torch.optim.Optimizer:
    """An optimiser with a rate of 0.1."""
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def rate(optimizer: torch.optim.Optimizer) -> float:
    """Return its learning rate now."""
    return float(optimizer.param_groups[0]["lr"])


def test_linear_falls_to_nothing_over_all_steps(optimizer: torch.optim.Optimizer) -> None:
    """Half of the rate is left after half of the steps, none after all; a loss that stays stops nothing."""
    schedule = schedule_of("linear", optimizer, 4, 1)
    rates = []
    for _ in range(4):
        optimizer.step()
        schedule.after_step()
        rates.append(rate(optimizer))
        assert not schedule.after_epoch(1.0)
    assert rates == pytest.approx([0.075, 0.05, 0.025, 0])


def test_a_loss_that_falls_keeps_the_rate(optimizer: torch.optim.Optimizer) -> None:
    """As long as twenty epochs bring 1 % together, nothing changes."""
    schedule = schedule_of("plateau", optimizer, 1500, 3)
    loss = 5.0
    for _ in range(60):
        loss *= 0.999
        assert not schedule.after_epoch(loss)
        schedule.after_step()
    assert rate(optimizer) == 0.1


def test_a_loss_that_stays_ends_the_training(optimizer: torch.optim.Optimizer) -> None:
    """The rate falls after each twenty epochs without a gain; the third fall is the end."""
    schedule = schedule_of("plateau", optimizer, 1500, 3)
    stops, rates = [schedule.after_epoch(1.0)], []
    while not stops[-1]:
        stops.append(schedule.after_epoch(1.0))
        rates.append(rate(optimizer))
    assert len(rates) == Plateau.PATIENCE * Plateau.FALLS
    assert rates[Plateau.PATIENCE - 2 : Plateau.PATIENCE] == pytest.approx([0.1, 0.03])
    assert rates[-1] == pytest.approx(0.1 * 0.3**Plateau.FALLS)


def test_twenty_epochs_of_few_steps_are_not_enough(optimizer: torch.optim.Optimizer) -> None:
    """With one step an epoch the rate stays for sixty epochs without a gain, with two for thirty."""
    for steps, epochs in ((1, 60), (2, 30), (7, 20)):
        optimizer.param_groups[0]["lr"] = 0.1
        schedule = schedule_of("plateau", optimizer, 500 * steps, steps)
        rates = []
        for _ in range(epochs + 1):
            schedule.after_epoch(1.0)
            rates.append(rate(optimizer))
        assert rates == pytest.approx([0.1] * epochs + [0.03])


def test_nothing_left_to_learn_ends_it_as_well(optimizer: torch.optim.Optimizer) -> None:
    """A mean loss under 0.02 nats needs no further epoch, however fast it falls."""
    schedule = schedule_of("plateau", optimizer, 1500, 3)
    assert not schedule.after_epoch(0.021)
    assert schedule.after_epoch(0.019)


def test_what_is_no_schedule_is_refused(optimizer: torch.optim.Optimizer) -> None:
    """Its name is in the error; so is a plateau for a method that counts in parts of all epochs."""
    with pytest.raises(UsageError, match="'cosine'"):
        schedule_of("cosine", optimizer, 1, 1)
    with pytest.raises(UsageError, match="'cosine'"):
        TrainingOptions(rank=1, schedule="cosine")
    with pytest.raises(UsageError, match="parts of all epochs"):
        TrainingOptions(rank=1, schedule="plateau", method="memft-sw")
