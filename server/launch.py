"""Starts vLLM's own OpenAI server with our plugins: checks first, defaults where the caller said nothing."""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from lorecall.adapters.bases.prepare import read_manifest
from lorecall.adapters.core.errors import BaseModelError, UsageError
from lorecall.server.auth.keyring import KeyGuard, check_exposure, is_loopback
from lorecall.server.settings import ServerSettings, read_settings

PLUGIN = "lorecall"
HUB_PREFIX = "hf://"
KV_CACHE_GIB = 2

DEFAULTS = {
    "--enable-lora": "",
    "--max-loras": "8",
    "--max-cpu-loras": "32",
    "--max-lora-rank": "128",
    "--scheduling-policy": "priority",
    "--host": "127.0.0.1",
}
"""Engine flags that we set unless the caller did; "" stands for a flag without a value."""


def base_location(base: str) -> str:
    """Return what vLLM is to load: a local directory, or the id behind `hf://`.

    Raises:
        BaseModelError: If there is no such directory, or it is no model.
    """
    if base.startswith(HUB_PREFIX):
        return base.removeprefix(HUB_PREFIX)
    path = Path(base)
    if not path.is_dir():
        raise BaseModelError(
            f"{base} is not a directory",
            hint="make one with: lorecall base prepare --out DIR; or name a hub model as hf://org/name",
            param="base",
        )
    if not (path / "config.json").is_file():
        raise BaseModelError(
            f"{base} holds no config.json", hint="give the directory of a model", param="base"
        )
    return str(path)


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """Return the value of `--name value` or `--name=value` in a command line, the last one given, or None."""
    found = None
    for index, flag in enumerate(flags):
        key, equals, value = flag.partition("=")
        if key.replace("_", "-") == name:
            found = value if equals else (flags[index + 1] if index + 1 < len(flags) else "")
    return found


def engine_flags(model: str, served_name: str, port: int, extra: Sequence[str]) -> list[str]:
    """Return vLLM's command line: the caller's flags unchanged, our defaults for what they leave open."""
    flags = ["--model", model, "--port", str(port)]
    if flag_value(extra, "--dtype") is None:
        flags += ["--dtype", served_dtype(model)]
    if flag_value(extra, "--served-model-name") is None:
        flags += ["--served-model-name", served_name]
    for name, value in DEFAULTS.items():
        stated = (
            flag_value(extra, name) is not None or flag_value(extra, name.replace("--", "--no-")) is not None
        )
        if not stated:
            flags += [name, value] if value else [name]
    return [*flags, *extra]


def served_dtype(model: str) -> str:
    """Return the dtype that a prepared base is meant to be served in; "auto" for a base of another origin.

    What vLLM's own "auto" does would turn a float32 base into bfloat16, which is another arithmetic than the one
    that its adapters were trained against.
    """
    try:
        return read_manifest(Path(model)).dtype
    except BaseModelError:
        return "auto"


def check_port(host: str, port: int) -> None:
    """Find out before the engine starts whether the port is free.

    Raises:
        UsageError: If it is not, or the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"port {port} on {host} is in use", hint="choose another with --port", param="port"
                ) from error
            raise UsageError(f"{host}:{port} cannot be bound: {error}", param="host") from error


def cpu_environment(environ: dict[str, str], cores: Sequence[int], library: Path | None) -> dict[str, str]:
    """Return the variables that a CPU engine needs and the caller did not set.

    Every core that this process may use is bound, and Intel's OpenMP runtime preloaded: without the two, vLLM
    0.32 leaves cores idle. The key/value cache gets KV_CACHE_GIB.
    """
    wanted = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
    }
    if library is not None and "iomp" not in environ.get("LD_PRELOAD", ""):
        wanted["LD_PRELOAD"] = ":".join(filter(None, [str(library), environ.get("LD_PRELOAD", "")]))
    return {key: value for key, value in wanted.items() if key == "LD_PRELOAD" or key not in environ}


def openmp_library() -> Path | None:
    """Return Intel's OpenMP runtime as installed beside us, or None."""
    try:
        files = distribution("intel-openmp").files or []
    except ModuleNotFoundError:
        return None
    found = [file.locate() for file in files if file.name == "libiomp5.so"]
    return Path(str(found[0])).resolve() if found else None


def prepare_environment() -> None:
    """Set what vLLM reads from the environment, keeping what the caller set."""
    plugins = os.environ.get("VLLM_PLUGINS", "")
    if PLUGIN not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = ",".join(filter(None, [plugins, PLUGIN]))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing leaves the machine unasked
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        cores = sorted(os.sched_getaffinity(0))
        os.environ.update(cpu_environment(dict(os.environ), cores, openmp_library()))


def check_scheme(model: str) -> None:
    """Refuse a base whose kernel this machine lacks: vLLM would load it and die on the first request.

    Raises:
        BaseModelError: If the base is INT4 and the CPU library has no INT4 kernel.
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


def check_keys(host: str, extra: Sequence[str], settings: ServerSettings) -> None:
    """Find out before the engine starts whether this server may be reached from elsewhere.

    Raises:
        UsageError: It could be, and there is no API key.
    """
    if is_loopback(host) or flag_value(extra, "--uds") is not None:
        return
    if flag_value(extra, "--api-key") is not None or os.environ.get("VLLM_API_KEY"):
        return
    registry = settings.open_registry()
    try:
        check_exposure(host, KeyGuard(registry, settings.secrets(), settings.api_keys_file, always=True))
    finally:
        registry.close()


def check_gate(settings: ServerSettings) -> None:
    """Read the gate's policy and sets before the engine starts.

    Raises:
        UsageError: One cannot be read.
    """
    from lorecall.audit.inputs.json_lines import load_json_lines
    from lorecall.audit.policy.policy_file import load_policy

    if settings.require_audit is not None:
        load_policy(settings.require_audit)
    for file in (settings.audit_candidates, settings.audit_controls):
        if file is not None:
            load_json_lines(file)


def serve(base: str, port: int, extra: Sequence[str]) -> None:
    """Run the server until it is stopped.

    Raises:
        UsageError: On a bad setting, base, flag or port; nothing has been started then.
    """
    settings = read_settings()
    model = base_location(base)
    served_name = Path(base).resolve().name if model == base else model
    host = flag_value(extra, "--host") or DEFAULTS["--host"]
    check_keys(host, extra, settings)
    check_gate(settings)
    check_port(host, port)
    prepare_environment()
    check_scheme(model)
    flags = engine_flags(model, flag_value(extra, "--served-model-name") or served_name, port, extra)

    import lorecall.server.endpoints  # noqa: F401  (vLLM only logs a plugin that fails to import)
    from vllm.entrypoints.launchers.api_server import entry

    sys.argv = ["lorecall serve", *flags]
    entry.main()
