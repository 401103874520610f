"""Starts vLLM's OpenAI server with our plugins, after checks, and with our defaults for flags left out."""

import errno
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorecall.adapters.core.errors import BaseModelError, UsageError
from lorecall.server.auth.keyring import KeyGuard, check_exposure, is_loopback
from lorecall.server.engine.common.deployment import check_api_servers, check_frontend, check_resolvers
from lorecall.server.engine.start.environment import (
    check_scheme,
    prepare_environment,
    rank_limit,
    served_dtype,
)
from lorecall.server.engine.start.families import check_family, check_packages
from lorecall.server.settings import ServerSettings, read_settings
from lorecall.server.slots import default_rank, named_modules, say_cost

HUB_PREFIX = "hf://"

DEFAULTS = {
    "--enable-lora": "",
    "--max-loras": "8",
    "--max-cpu-loras": "32",
    "--scheduling-policy": "priority",
    "--host": "127.0.0.1",
    "--allowed-media-domains": "none.invalid",  # a base that sees images would fetch what any caller names
}
"""Engine flags that we set unless the caller did; "" means a flag without a value."""

OTHER_ACCESS_LOG = "--disable-uvicorn-access-log"
"""Our own access log says more, and no query."""

OTHER_SERVERS = {
    "--headless": "on nodes without an API server: VLLM_PLUGINS=lorecall vllm serve --headless",
    "--data-parallel-multi-port-external-lb": "start one server for each rank, with --data-parallel-rank",
}
"""Flags that only `vllm serve` acts on, and what to do instead."""


def base_location(base: str) -> str:
    """Return the model that vLLM loads: a local directory, or the hub id after `hf://`.

    Raises:
        BaseModelError: There is no such directory, or it is no model.
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


def replaced_flag(flags: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return a command line with `new`, a flag and its value or nothing, in the place of the same flag in it.

    vLLM refuses a value that it does not know also where a later one takes its place.
    """
    kept: list[str] = []
    following = False
    for flag in flags:
        key, equals, _value = flag.partition("=")
        if following:
            following = False
        elif new and key.replace("_", "-") == new[0]:
            following = not equals
        else:
            kept.append(flag)
    return [*kept, *new]


def engine_flags(model: str, served_name: str, port: int, extra: Sequence[str]) -> list[str]:
    """Return vLLM's command line: the caller's flags, and our defaults for flags that they leave out."""
    flags = ["--model", model, "--port", str(port)]
    if flag_value(extra, "--served-model-name") is None:
        flags += ["--served-model-name", served_name]
    for name, value in DEFAULTS.items():
        stated = (
            flag_value(extra, name) is not None or flag_value(extra, name.replace("--", "--no-")) is not None
        )
        if not stated:
            flags += [name, value] if value else [name]
    return [*flags, *extra]


def check_port(host: str, port: int) -> None:
    """Check that the port is free, before the engine starts.

    Raises:
        UsageError: It is in use, or the address cannot be bound.
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


def check_flags(extra: Sequence[str], environ: Mapping[str, str]) -> None:
    """Refuse vLLM's ways to serve that `lorecall serve` does not have, before the engine starts.

    Raises:
        UsageError: One was asked for.
    """
    count = flag_value(extra, "--api-server-count") or "1"
    check_api_servers(int(count) if count.isdecimal() else 1)
    check_frontend(environ, grpc=flag_value(extra, "--grpc") is not None)
    check_resolvers(environ)
    for flag, hint in OTHER_SERVERS.items():
        if flag_value(extra, flag) is not None:
            raise UsageError(
                f"lorecall serve starts one server, not what {flag} asks for", hint=hint, param=flag
            )


def check_numbers(extra: Sequence[str]) -> None:
    """Check vLLM's flags whose numbers it would take, or refuse with a trace, before the engine starts.

    Raises:
        UsageError: A number is out of its bounds.
    """
    logprobs = _number(extra, "--max-logprobs")
    if logprobs is not None and logprobs < 1 and logprobs != -1:
        raise UsageError(
            f"--max-logprobs is {logprobs}, and every answer has the log-probabilities of its tokens",
            hint="give 1 or more, or -1 for no limit",
            param="--max-logprobs",
        )
    slots = _number(extra, "--max-loras") or int(DEFAULTS["--max-loras"])
    memory = _number(extra, "--max-cpu-loras") or int(DEFAULTS["--max-cpu-loras"])
    if memory < slots:
        raise UsageError(
            f"--max-cpu-loras is {memory}, below --max-loras, which is {slots}",
            hint="the memory holds the adapters in the slots too: raise it, or lower --max-loras",
            param="--max-cpu-loras",
        )


def rounded_rank(extra: Sequence[str]) -> list[str]:
    """Return flags that raise `--max-lora-rank` to the next that vLLM has, and say so; none where it has it.

    Call it when vLLM's environment is set.

    Raises:
        AdapterError: It is over vLLM's largest.
    """
    stated = _number(extra, "--max-lora-rank")
    if stated is None or stated < 1:
        return []
    limit = rank_limit([stated])
    if limit == stated:
        return []
    sys.stderr.write(f"--max-lora-rank {stated}: the engine has no such limit, and takes the next, {limit}\n")
    return ["--max-lora-rank", str(limit)]


def slot_flags(model: str, extra: Sequence[str], settings: ServerSettings) -> list[str]:
    """Return `--max-lora-rank`, chosen or rounded up, and say what the slots cost; nothing without LoRA.

    Raises:
        AdapterError: A rank is over vLLM's largest.
    """
    if flag_value(extra, "--no-enable-lora") is not None:
        return []
    flags = rounded_rank(extra)
    if flag_value(extra, "--max-lora-rank") is None:
        registry = settings.open_registry()
        try:
            flags = [
                "--max-lora-rank",
                str(default_rank(registry, {**settings.initial_adapters(), **named_modules(extra)})),
            ]
        finally:
            registry.close()
    rank = _number([*extra, *flags], "--max-lora-rank")
    slots = _number(extra, "--max-loras") or int(DEFAULTS["--max-loras"])
    if rank:
        say_cost(model, slots, rank, flag_value(extra, "--dtype") or "auto")
    return flags


def _number(extra: Sequence[str], name: str) -> int | None:
    """Return the whole number of a flag; None where it is not given, or vLLM will say what is wrong with it."""
    try:
        return int(flag_value(extra, name) or "")
    except ValueError:
        return None


def check_settings(host: str, extra: Sequence[str], settings: ServerSettings) -> None:
    """Check the registry and the API keys before the engine starts.

    A server without API keys that other machines could reach is refused.

    Raises:
        UsageError: A setting is wrong, or others could reach the server and there is no API key.
        LorecallError: The registry cannot be opened.
    """
    exposed = not is_loopback(host) and flag_value(extra, "--uds") is None
    keyed = flag_value(extra, "--api-key") is not None or os.environ.get("VLLM_API_KEY")
    registry = settings.open_registry()
    try:
        guard = KeyGuard(registry, settings.secrets(), settings.api_keys_file, always=exposed)
        if exposed and not keyed:
            check_exposure(host, guard)
    finally:
        registry.close()


def check_gate(settings: ServerSettings) -> None:
    """Check the gate's policy, sets and framings, before the engine starts.

    Raises:
        UsageError: One cannot be used.
    """
    from lorecall.audit.policy.policy_file import load_policy
    from lorecall.server.audits.admission import gate_framings, operator_sets

    if settings.require_audit is not None:
        load_policy(settings.require_audit)
    if settings.require_audit or settings.audit_candidates or settings.audit_controls:
        operator_sets(settings.audit_candidates, settings.audit_controls)
    gate_framings(settings.audit_framings, chat_template=True)


def check_limits(settings: ServerSettings) -> None:
    """Check the rate limits, before the engine starts.

    Raises:
        UsageError: A limit, or the address of the fleet's Redis, cannot be used.
    """
    from lorecall.adapters.access.fleet_limits import make_buckets
    from lorecall.adapters.access.keys import parse_rate_limits

    for pattern, values in settings.adapter_limits.items():
        try:
            parse_rate_limits(values)
        except UsageError as error:
            raise UsageError(
                f"LORECALL_ADAPTER_LIMITS, {pattern!r}: {error}", param="adapter_limits"
            ) from error
    make_buckets(settings.limits_url.get_secret_value())


def serve(base: str, port: int, extra: Sequence[str]) -> None:
    """Run the server until it is stopped.

    Raises:
        UsageError: A setting, base, flag or port is wrong; nothing was started.
    """
    settings = read_settings()
    model = base_location(base)
    served_name = Path(base).resolve().name if model == base else model
    host = flag_value(extra, "--host") or DEFAULTS["--host"]
    check_flags(extra, os.environ)
    check_numbers(extra)
    check_settings(host, extra, settings)
    check_gate(settings)
    check_limits(settings)
    check_port(host, port)
    prepare_environment()
    check_scheme(model)
    check_family(model)
    check_packages(model)
    if flag_value(extra, "--dtype") is None:
        extra = [*extra, "--dtype", served_dtype(model)]
    extra = replaced_flag(extra, slot_flags(model, extra, settings))
    if settings.access_log and flag_value(extra, OTHER_ACCESS_LOG) is None:
        extra = [*extra, OTHER_ACCESS_LOG]
    flags = engine_flags(model, flag_value(extra, "--served-model-name") or served_name, port, extra)

    import lorecall.server.endpoints  # noqa: F401  (vLLM only logs a plugin that fails to import)
    from vllm.entrypoints.launchers.api_server import entry

    sys.argv = ["lorecall serve", *flags]
    entry.main()
