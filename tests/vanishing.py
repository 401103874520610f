"""Another process deletes a folder's files while ours works on them."""

import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

STEPS = ("listdir", "scandir", "stat", "lstat", "open", "mkdir", "unlink", "rmdir")


def while_files_vanish(folder: Path, fill: Callable[[], object], work: Callable[[], object]) -> int:
    """Fill a folder and work on it, again and again; before another step each time, all in it is deleted.

    Returns:
        At how many steps it was deleted.
    """
    for step in count(1):
        fill()
        left = [step]

        def stepping(call: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def stepped(*args: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    _empty(folder)
                return call(*args, **options)

            return stepped

        steps: dict[str, Any] = {name: stepping(getattr(os, name)) for name in STEPS}
        with mock.patch.multiple(os, **steps):
            work()
        if left[0] > 0:
            return step - 1
    raise AssertionError


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
