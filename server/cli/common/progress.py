"""Progress of long commands: bars on stderr, off when it is not a terminal."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from lorecall.adapters.training.train import TrainingProgress


def quiet_libraries() -> None:
    """Switch off the bars that transformers and compressed-tensors draw; call it before importing them."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _bar(*columns: TextColumn, transient: bool = False) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something without a count is waited for; it is removed after the block."""
    with Console(stderr=True).status(what):  # shows nothing where stderr is no terminal
        yield


@contextmanager
def count_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (done, total); the bar is removed after the block."""
    with _bar(transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows (step's name, done, total); a total of 0 shows no count."""
    with _bar() as bar:
        task = bar.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield show


@contextmanager
def training_bar() -> "Iterator[Callable[[TrainingProgress], None]]":
    """Yield a function that shows steps, loss and tokens over 0.5."""
    with _bar(TextColumn("loss {task.fields[loss]}  over 0.5: {task.fields[over]}")) as bar:
        task = bar.add_task("training", total=None, loss="-", over="-")

        def show(now: "TrainingProgress") -> None:
            over = f"{now.over_half}/{now.target_tokens} tokens"
            bar.update(task, completed=now.step, total=now.steps, loss=f"{now.loss:.3f}", over=over)

        yield show
