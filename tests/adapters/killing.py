"""Kills a program before each of its steps on the disk in turn, as a power cut or `kill -9` would."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

PRELUDE = """
import os, signal, sys
left = int(sys.argv.pop(1))

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def stepping(call):
    def stepped(*args):
        step()
        return call(*args)
    return stepped

def count_steps():
    names = {"mkdir", "rename", "remove", "rmdir", "chmod", "truncate", "rmtree", "mkdtemp", "scandir", "open"}
    sys.addaudithook(lambda event, _: step() if event.rpartition(".")[2] in names else None)
    os.fsync = stepping(os.fsync)
"""
"""A step changes something, looks for it, or waits for the disk; `count_steps` comes after the imports."""

MOST = 300


def killed_before_each_step(program: str, arguments: Callable[[int], Sequence[str]]) -> Iterator[int]:
    """Yield n after the program was killed before its n-th step; the last n is that of its run to the end.

    Args:
        program: Python, after which `PRELUDE` has run.
        arguments: Prepares the n-th run, and returns its arguments.
    """
    for number in range(1, MOST):
        words = [sys.executable, "-c", PRELUDE + program, str(number), *arguments(number)]
        done = subprocess.run(words, check=False)
        assert done.returncode in (0, -signal.SIGKILL)
        yield number
        if done.returncode == 0:
            return
    raise AssertionError(f"it takes {MOST} steps or more")
