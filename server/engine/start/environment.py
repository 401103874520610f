"""Prepares the environment of a vLLM engine: variables, OpenMP runtime, dtype, kernel checks."""

import ctypes
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distribution, entry_points, version
from pathlib import Path
from typing import get_args

from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.core.errors import AdapterError, BaseModelError, UsageError
from lorecall.server.engine.start.torch_companions import check_companions

PLUGIN = "lorecall"
KV_CACHE_GIB = 2
PLUGIN_GROUPS = tuple(
    f"vllm.{kind}_plugins" for kind in ("general", "platform", "io_processor", "stat_logger")
)
"""Groups of plugins that vLLM loads while VLLM_PLUGINS is unset; those with routes are not among them."""


def served_dtype(model: str) -> str:
    """Return the dtype to serve a base in: its manifest's if this platform suits it, "auto" without a manifest.

    vLLM's "auto" would serve a float32 base in bfloat16 on a CPU, but its adapters were trained against float32.
    A CPU's kernel for packed 4-bit weights takes bfloat16 alone, whatever the base says.
    """
    from vllm.platforms import current_platform

    try:
        wanted = read_base_manifest(Path(model)).dtype
    except BaseModelError:
        wanted = "auto"
    if current_platform.is_cpu():
        dtype = "bfloat16" if _is_packed(_config(model)) else wanted
    elif wanted == "auto":
        dtype = wanted
    else:
        preferred = [str(dtype).removeprefix("torch.") for dtype in current_platform.supported_dtypes]
        dtype = accelerator_dtype(wanted, preferred)
    if wanted not in (dtype, "auto"):
        sys.stderr.write(
            f"{model} was prepared as {wanted} and is served as {dtype}, which suits this device; "
            "--dtype overrides it\n"
        )
    return dtype


def accelerator_dtype(wanted: str, preferred: Sequence[str]) -> str:
    """Return the dtype for an accelerator: the one wanted, or the platform's first choice.

    A base that was prepared on a CPU says float32. INT8 and INT4 kernels of a GPU have no float32 outputs
    (`cutlass_scaled_mm` stops the engine's start), and the other kernels are slow in it.

    Args:
        wanted: A manifest's dtype.
        preferred: vLLM's dtypes of this platform, best first; without bfloat16 below compute capability 8.0.
    """
    return wanted if wanted != "float32" and wanted in preferred else preferred[0]


def plugin_names(stated: str | None, discovered: Sequence[str]) -> str:
    """Return VLLM_PLUGINS with our plugin among those stated; where nothing is stated, among all that there are.

    Unset, the variable lets vLLM load every installed plugin; our name alone would switch the others off.
    """
    names = list(discovered) if stated is None else stated.split(",")
    return ",".join(dict.fromkeys([*filter(None, names), PLUGIN]))


def cpu_environment(environ: dict[str, str], cores: Sequence[int], library: Path | None) -> dict[str, str]:
    """Return the variables that a CPU engine needs and the caller did not set.

    They bind every core that this process may use and preload Intel's OpenMP runtime, because vLLM 0.32 leaves
    cores idle otherwise; with it, the engine's processes can be forks (see `forked_processes.py`). By itself the
    runtime binds a fork to the first core, where the worker computes; vLLM binds the worker's threads. The
    key/value cache gets KV_CACHE_GIB.
    """
    wanted = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
    }
    if library is not None:
        wanted |= {"VLLM_WORKER_MULTIPROC_METHOD": "fork", "KMP_AFFINITY": "none"}
        if "iomp" not in environ.get("LD_PRELOAD", ""):
            wanted["LD_PRELOAD"] = ":".join(filter(None, [str(library), environ.get("LD_PRELOAD", "")]))
    return {key: value for key, value in wanted.items() if key == "LD_PRELOAD" or key not in environ}


def openmp_library() -> Path | None:
    """Return Intel's OpenMP runtime as installed in this environment, or None."""
    try:
        files = distribution("intel-openmp").files or []
    except ModuleNotFoundError:
        return None
    found = [file.locate() for file in files if file.name == "libiomp5.so"]
    return Path(str(found[0])).resolve() if found else None


@cache
def load_openmp() -> bool:
    """Load Intel's OpenMP runtime, for torch to use in the place of its own; return whether torch will.

    A process that uses it can be forked; a fork of one that uses torch's own hangs in its first parallel loop. It
    is too late once torch is imported, unless the runtime was preloaded. Builds of torch for GPUs keep their own.
    """
    library = openmp_library()
    if library is None:
        return False
    if "iomp" in os.environ.get("LD_PRELOAD", ""):
        return True
    if "torch" in sys.modules or not version("torch").endswith("+cpu"):
        return False
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return True


def prepare_environment() -> None:
    """Set the variables that vLLM reads, except those that the caller set.

    A server calls it before torch is imported: its engine starts in half of the time then.

    Raises:
        TorchCompanionError: An installed package does not fit torch; vLLM could not be imported.
        UsageError: VLLM_BATCH_INVARIANT is set on a CPU; the first request would end the engine.
    """
    check_companions()
    discovered = [point.name for group in PLUGIN_GROUPS for point in entry_points(group=group)]
    os.environ["VLLM_PLUGINS"] = plugin_names(os.environ.get("VLLM_PLUGINS"), discovered)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # no usage statistics leave the machine
    # A redirect would lead from a host of --allowed-media-domains to any other, private ones included.
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    load_openmp()
    import torch

    if not torch.backends.cuda.is_built():  # vLLM reads it once, when it is imported: see compiled_model.py
        os.environ.setdefault("VLLM_USE_LAYERNAME", "0")
    from vllm import envs
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        if envs.VLLM_BATCH_INVARIANT:
            raise UsageError(
                "VLLM_BATCH_INVARIANT=1 needs a GPU: vLLM's kernels for it are Triton's, which a CPU lacks",
                hint="unset it; an audit measures how far a batch moves an answer, and certifies by that",
            )
        cores = sorted(os.sched_getaffinity(0))
        os.environ.update(cpu_environment(dict(os.environ), cores, openmp_library()))


def _config(model: str) -> str:
    """Return the config.json of a model directory; "" without one."""
    try:
        return (Path(model) / "config.json").read_text()
    except OSError:
        return ""


def _is_packed(config: str) -> bool:
    """Return whether a config.json says that weights are 4-bit numbers, packed as ours, GPTQ's or AWQ's."""
    return any(f'"{layout}"' in config for layout in ("pack-quantized", "gptq", "awq"))


def check_scheme(model: str) -> None:
    """Refuse a base whose kernel this machine lacks: vLLM would load it and crash on the first request.

    Raises:
        BaseModelError: The base is INT4 and the CPU library has no INT4 kernel, or it is FP8 and this is a CPU.
    """
    import torch
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    stated = _config(model)
    if '"float-quantized"' in stated:
        raise BaseModelError(
            f"{model} is FP8, and vLLM has no kernel for it on a CPU",
            hint="prepare an INT8 base: lorecall base prepare --quantize int8 --out DIR",
            param="base",
        )
    if not _is_packed(stated):
        return
    current_platform.import_kernels()
    if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
        raise BaseModelError(
            f"{model} is INT4 and this CPU has no INT4 kernel in vLLM (AVX-512 is needed)",
            hint="prepare an INT8 base: lorecall base prepare --quantize int8 --out DIR",
            param="base",
        )


def rank_limit(ranks: list[int]) -> int:
    """Return the smallest `--max-lora-rank` of vLLM that has room for all of these ranks.

    Raises:
        AdapterError: One of them is over vLLM's largest.
    """
    from vllm.config.lora import MaxLoRARanks

    allowed = sorted(get_args(MaxLoRARanks))
    wanted = max(ranks, default=1)
    if wanted > allowed[-1]:
        raise AdapterError(f"rank {wanted} cannot be served", hint=f"vLLM takes ranks up to {allowed[-1]}")
    return int(next(limit for limit in allowed if limit >= wanted))
