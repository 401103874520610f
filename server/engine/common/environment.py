"""Prepares the environment of a vLLM engine: variables, OpenMP runtime, dtype, kernel checks."""

import os
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import get_args

from lorecall.adapters.bases.prepare import read_base_manifest
from lorecall.adapters.core.errors import AdapterError, BaseModelError

PLUGIN = "lorecall"
KV_CACHE_GIB = 2


def served_dtype(model: str) -> str:
    """Return the dtype to serve a base in: its manifest's, or "auto" for a base without one.

    vLLM's "auto" would serve a float32 base in bfloat16, but its adapters were trained against float32.
    """
    try:
        return read_base_manifest(Path(model)).dtype
    except BaseModelError:
        return "auto"


def cpu_environment(environ: dict[str, str], cores: Sequence[int], library: Path | None) -> dict[str, str]:
    """Return the variables that a CPU engine needs and the caller did not set.

    They bind every core that this process may use and preload Intel's OpenMP runtime, because vLLM 0.32 leaves
    cores idle otherwise. The key/value cache gets KV_CACHE_GIB.
    """
    wanted = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
    }
    if library is not None and "iomp" not in environ.get("LD_PRELOAD", ""):
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


def prepare_environment() -> None:
    """Set the variables that vLLM reads, except those that the caller set."""
    plugins = os.environ.get("VLLM_PLUGINS", "")
    if PLUGIN not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = ",".join(filter(None, [plugins, PLUGIN]))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # no usage statistics leave the machine
    # A redirect would lead from a host of --allowed-media-domains to any other, private ones included.
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        cores = sorted(os.sched_getaffinity(0))
        os.environ.update(cpu_environment(dict(os.environ), cores, openmp_library()))


def check_scheme(model: str) -> None:
    """Refuse a base whose kernel this machine lacks: vLLM would load it and crash on the first request.

    Raises:
        BaseModelError: The base is INT4 and the CPU library has no INT4 kernel.
    """
    import torch
    from vllm.platforms import current_platform

    config = Path(model) / "config.json"
    if not current_platform.is_cpu() or not config.is_file() or "pack-quantized" not in config.read_text():
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
