"""Freed activations stay in the worker's heap: their pages are not zeroed by the kernel again and again."""

import subprocess
import sys

FAULTS = """
import resource, torch
from lorecall.server.engine.cpu.kept_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10 << 20)  # 40 MiB, as the output of a wide layer over some thousand tokens
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

stock, taken = faults(), keep_freed_memory()
faults()  # the heap grows to what is needed
print(stock, taken, faults())
"""


def test_memory_is_faulted_in_once() -> None:
    """Without the setting each allocation of an activation faults all its pages in; with it, the first few do."""
    ended = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True)
    stock, taken, kept = ended.stdout.split()
    assert taken == "True"
    assert int(stock) > 5 * int(kept)
