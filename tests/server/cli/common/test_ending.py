"""How the process of a server ends: with its exit code, after what was registered, and without more."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.ending import process_ends_here

class Bound:
    def __del__(self):
        print("taken apart")

bound = Bound()
atexit.register(print, "registered")
with process_ends_here():
    {block}
"""


@pytest.mark.parametrize(
    ("block", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("raise KeyboardInterrupt('terminated')", 130, ""),
        ("raise UsageError('wrong', hint='right')", 2, "error: wrong\nhint: right\n"),
        ("sys.exit(1)", 3, ""),
        ("sys.exit('given up')", 3, ""),
        ("raise ValueError('a fault')", 3, "ValueError: a fault\n"),
    ],
)
def test_the_process_ends_with_the_blocks_code(block: str, code: int, said: str) -> None:
    """Nothing is taken apart after what was registered at exit: that is where nanobind complains."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(block=block)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "registered\n")
    assert done.stderr.endswith(said)
    assert bool(done.stderr) == bool(said)
