"""Ray for one command: a small one of its own on this machine, or a cluster that is there."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import ScorerError, UsageError

LOCAL = "local"
STARTS = 3
REACH_S = 10.0
SILENT: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
OBJECT_STORE = 256 * 2**20
"""Bytes of a local Ray's object store: blocks wait in it, and are small."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""No statistics leave the machine, and no working directory is uploaded."""


def require() -> None:
    """Check that the extra `bulk` is installed. Raises UsageError."""
    missing = next((name for name in ("ray", "pyarrow") if find_spec(name) is None), None)
    if missing is not None:
        raise UsageError(f"Ray is needed, and {missing} is not installed", hint="pip install lorecall[bulk]")


@contextmanager
def started(address: str) -> Iterator[None]:
    """Have Ray for the time of a command, whose standard output stays its own: see `connected`.

    Ray prints there, in spite of its settings, that a worker died, which is mended: the worker starts again. What
    the command has to print on it, it prints after the block.
    """
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), connected(address):
        yield


@contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray for the time of the block; "local" starts one, and removes what it wrote.

    Nothing is uploaded: each node of a cluster has lorecall installed, and LORECALL_API_KEY in its environment.

    Args:
        address: "local", or a cluster's address as `ray.init` takes it.
        cpus: Of a local Ray; the machine's cores by default, at least two.

    Raises:
        UsageError: The extra `bulk` is not installed.
        ScorerError: The cluster does not answer.
    """
    os.environ.update(QUIET)
    require()
    import ray  # noqa: PLC0415  optional, and it reads the environment when it is imported

    with ExitStack() as stack:
        stack.callback(ray.shutdown)
        if address == LOCAL:
            folder = tempfile.mkdtemp(prefix="lorecall-ray-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(ray.shutdown)  # before its folder goes
            _start(folder, cpus or max(2, os.cpu_count() or 1))
        else:
            _connect(address)
        yield


def _start(folder: str, cpus: int) -> None:
    """Start a Ray below a folder; it gives up by itself after half a minute, which a busy machine may need."""
    import ray  # noqa: PLC0415

    for attempt in range(STARTS):
        try:
            with _without_stderr():
                ray.init(
                    address=LOCAL,
                    num_cpus=cpus,
                    object_store_memory=OBJECT_STORE,
                    include_dashboard=False,
                    _temp_dir=f"{folder}/{attempt}",  # Ray opens its own folder to everybody
                    **SILENT,
                )
        except Exception as error:  # noqa: BLE001  Ray raises no kind of its own
            ray.shutdown()
            kind = type(error).__name__
        else:
            return
    raise ScorerError(
        f"Ray did not start on this machine in {STARTS} tries: {kind}",
        hint="the machine may be too busy, or its temporary folder full",
        param="ray",
    )


def _connect(address: str) -> None:
    """Connect to a cluster. Raises ScorerError where none answers."""
    import ray  # noqa: PLC0415

    try:
        _reach(address)  # Ray itself tries for minutes
        with _without_stderr():
            ray.init(address=address, **SILENT)
    except (OSError, ValueError, RuntimeError) as error:
        raise ScorerError(
            f"no Ray cluster answers at {address!r}: {type(error).__name__}",
            hint="start one with `ray start --head`, or use --ray local",
            param="ray",
        ) from None


def _reach(address: str) -> None:
    """Connect once to an address that names a host and a port. Raises OSError where nothing answers."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACH_S).close()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what is written to stderr meanwhile: a library of Ray's says there which log level it was given."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
