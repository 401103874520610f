"""Keeps freed activation memory in the process, because the kernel would zero it again for every step.

An activation of a long prompt is tens of megabytes, which glibc maps from the kernel and unmaps again, or trims
from its heap: every layer of every step then writes to new pages, which the kernel zeroes first. vLLM 0.32
preloads tcmalloc for this reason, where its wheel has it; the community's CPU wheel has not.
"""

import ctypes
from typing import Any

from lorecall.server.engine.common.plugin import require

KEPT_BYTES = 1 << 30
"""The most freed memory that the heap keeps: several times the activations of a step of 4,096 tokens."""

LARGEST_BYTES = 1 << 27
"""Larger blocks, such as all logits of a prompt, go back at once: they would fragment the heap."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
"""glibc's malloc.h."""

STEP_BYTES = 64 << 20
"""How much more than was asked for the heap grows by."""


def keep_freed_memory() -> bool:
    """Serve large allocations from the heap and keep freed ones there; return whether malloc supports it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    heap = mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES) or mallopt(
        M_MMAP_MAX, 0
    )  # older versions of glibc refuse the first
    return bool(heap and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(M_TOP_PAD, STEP_BYTES))


def apply() -> None:
    """Apply it in the worker after the model is loaded, so that the memory of loading is still freed."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load = require(CPUModelRunner, "load_model", ("self", "load_dummy_weights"))

    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        keep_freed_memory()

    CPUModelRunner.load_model = load_model
