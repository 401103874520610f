"""Compiles `lora_kernel.cpp` for this CPU, once for each, and calls it.

It takes a second or two; what comes out is kept below XDG_CACHE_HOME. The kernel runs on the OpenMP threads of
torch: both ask for the same library, which the process has loaded already.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from lorecall.adapters.core.errors import UsageError

SOURCE = Path(__file__).with_name("lora_kernel.cpp")
FLAGS = ("-O3", "-march=native", "-std=gnu++17", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")

ROWS_AT_ONCE = 8
"""Rows of one slot that are computed together; ROWS in the kernel."""

LANES, BLOCK = 16, 32
"""Packed columns of A are a multiple of the first, those of a slice of B of the second; as in the kernel."""

RANKS_AT_ONCE = 2
"""Packed ranks are padded with zeros to a multiple, since bfloat16 factors are packed in pairs."""

ROW_TYPES = (torch.bfloat16, torch.float32)

FLOAT32, PAIRS, ROUNDED = 0, 1, 2
"""How the kernel multiplies: float32 factors; bfloat16 factors and float32 inputs; both in bfloat16.

Sums are float32. The second loses nothing: it is for float32 adapters whose numbers are all bfloat16. The third is
for `--lora-dtype bfloat16`; a CPU without AVX512_BF16 does the second there.
"""


def _compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found is None:
        raise UsageError(
            "no C++ compiler was found, and the kernel for adapters on a CPU is compiled where it runs",
            hint="install g++, or name a compiler in CXX",
            param="CXX",
        )
    return found


def _processor() -> str:
    """Return what tells this processor's instructions from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


@functools.cache
def library() -> Path:
    """Return the compiled kernel, compiling it if that was not done for this source, compiler and CPU.

    Raises:
        UsageError: There is no compiler, or it fails.
    """
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout  # noqa: S603  (a compiler)
    made_of = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, _processor().encode())
    name = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorecall" / "kernels"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = cache / f"{name}.so"
    if not made.is_file():
        with tempfile.TemporaryDirectory(dir=cache) as work:
            out = Path(work) / made.name
            ended = subprocess.run(  # noqa: S603  (a compiler)
                [compiler, *FLAGS, str(SOURCE), "-o", str(out)], capture_output=True, check=False, text=True
            )
            if ended.returncode:
                raise UsageError(f"{compiler} failed: {ended.stderr[-500:]}", hint="set CXX", param="CXX")
            out.replace(made)
    return made


@functools.cache
def kernel() -> Callable[..., None]:
    """Return the kernel as a function.

    Its arguments are the addresses of the inputs and the outputs, the distances of their rows, the addresses of
    a step and of a module, whether the rows are bfloat16 (otherwise float32), how to multiply, and the scale.
    """
    found = ctypes.CDLL(str(library())).lora_add
    address, number = ctypes.c_void_p, ctypes.c_ssize_t
    found.argtypes = (address, address, number, number, address, address, *[ctypes.c_int] * 2, ctypes.c_float)
    found.restype = None
    return found
