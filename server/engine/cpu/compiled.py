"""Compiles our kernels, the C++ files beside this one, for the CPU on which they run.

It takes a few seconds, once; what comes out is kept below XDG_CACHE_HOME. The kernels run on the OpenMP threads
of torch: both ask for the same library, which the process has loaded already.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from lorecall.adapters.core.errors import UsageError

FLAGS = ("-O3", "-march=native", "-std=gnu++20", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")


def compiler() -> str:
    """Return the C++ compiler to use: the one in CXX, g++ or clang++.

    Raises:
        UsageError: There is none.
    """
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found is None:
        raise UsageError(
            "no C++ compiler was found, and the kernels of a CPU engine are compiled where they run",
            hint="install g++, or name a compiler in CXX",
            param="CXX",
        )
    return found


def processor() -> str:
    """Return what tells this processor's instructions from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def library(name: str) -> Path:
    """Return the compiled `name`.cpp, compiling it if that was not done for this source, compiler and CPU.

    Raises:
        UsageError: There is no compiler, or it fails.
    """
    import torch  # not by those who look for a compiler only

    using, home = compiler(), Path(torch.__file__).parent
    version = subprocess.run([using, "--version"], capture_output=True, check=True).stdout  # noqa: S603  (a compiler)
    source = Path(__file__).with_name(f"{name}.cpp")
    flags = (*FLAGS, "-I", str(home / "include"), "-L", str(home / "lib"), "-ltorch_cpu")
    made_of = (
        source.read_bytes(),
        " ".join(flags).encode(),
        torch.__version__.encode(),
        version,
        processor().encode(),
    )
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorecall" / "kernels"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = cache / f"{digest}.so"
    if not made.is_file():
        with tempfile.TemporaryDirectory(dir=cache) as work:
            out = Path(work) / made.name
            ended = subprocess.run(  # noqa: S603  (a compiler)
                [using, str(source), *flags, "-o", str(out)], capture_output=True, check=False, text=True
            )
            if ended.returncode:
                raise UsageError(f"{using} failed: {ended.stderr[-500:]}", hint="set CXX", param="CXX")
            out.replace(made)
    return made


def load_operators(name: str) -> None:
    """Define the operators of `name`.cpp below `torch.ops.lorecall`."""
    import torch

    torch.ops.load_library(str(library(name)))
