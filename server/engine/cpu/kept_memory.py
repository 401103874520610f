"""Keeps the memory of activations from step to step: the CPU engine gave it back and had it zeroed each time.

An activation of a long prompt is tens of megabytes, which glibc maps from the kernel and unmaps again, or trims
from its heap: every layer of every step then writes to fresh pages, and the kernel zeroes them first. vLLM 0.32
preloads tcmalloc for this reason, where its wheel has it; the community's CPU wheel has not.
"""

import ctypes
from typing import Any

from lorecall.server.engine.common.plugin import require

KEPT_BYTES = 1 << 30
"""Freed memory that the worker's heap holds at most: several times the activations of a step of 4,096 tokens."""

LARGEST_BYTES = 1 << 27
"""Larger blocks are given back at once, as ever: all logits of a prompt would leave the heap full of holes."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
"""glibc's malloc.h."""

STEP_BYTES = 64 << 20
"""How much the heap grows by at a time, beyond what is asked for."""


def keep_freed_memory() -> bool:
    """Serve large allocations from the heap, and keep freed ones there; return whether malloc took it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    heap = mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES) or mallopt(M_MMAP_MAX, 0)  # older ones refuse the first
    return bool(heap and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(M_TOP_PAD, STEP_BYTES))


def apply() -> None:
    """Do it in the worker once the model is loaded, so that what loading took is given back as ever."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load = require(CPUModelRunner, "load_model", ("self", "load_dummy_weights"))

    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        keep_freed_memory()

    CPUModelRunner.load_model = load_model
