"""Starts HTTP servers to measure: ours, and stock vLLM on the same engine arguments."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.bench.processes.error_lines import error_lines

START_S = 300
STOP_S = 30
ENTRY = "vllm.entrypoints.launchers.api_server.entry"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HttpServer:
    """A process of our server or of stock vLLM; `close` ends it.

    Args:
        base: Model directory.
        log: File for its output.
        flags: Engine flags, the same for both kinds.
        stock: Whether it is vLLM without our plugins and defaults.
        environ: Variables to set beside the caller's.
        port: The port; 0 for a free one.

    Raises:
        LorecallError: It does not start.
    """

    def __init__(
        self,
        base: Path,
        log: Path,
        flags: Sequence[str],
        *,
        stock: bool = False,
        environ: dict[str, str] | None = None,
        port: int = 0,
    ) -> None:
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.model = "base"
        model = ["--served-model-name", self.model, "--port", str(port), "--host", "127.0.0.1", *flags]
        ours = [str(Path(sys.executable).with_name("lorecall")), "serve", "--base", str(base)]
        theirs = [sys.executable, "-m", ENTRY, "--model", str(base)]
        extra = {"VLLM_PLUGINS": "none" if stock else "lorecall", **(environ or {})}
        self._process = self._start([*(theirs if stock else ours), *model], extra, log)
        self.http = httpx.Client(base_url=self.url, timeout=600)
        try:
            self._wait(log)
        except BaseException:  # also SIGTERM's SystemExit: no server may be left running
            self.close()
            raise

    def _start(self, command: Sequence[str], environ: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        """Start the process, as the leader of a session of its own."""
        with log.open("w") as sink:
            return subprocess.Popen(  # noqa: S603  (our own module)
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
                start_new_session=True,
            )

    def _wait(self, log: Path) -> None:
        for _ in range(START_S):
            if self._process.poll() is not None:
                break
            with suppress(httpx.TransportError):
                if self.http.get("/health").is_success:
                    return
            time.sleep(1)
        code = self._process.poll()
        how = f"exited with {code}" if code is not None else f"was not up after {START_S} s"
        raise LorecallError(f"a server {how}; its log is {log}, its last errors: {error_lines(log)}")

    @property
    def alive(self) -> bool:
        """Whether server and engine are up."""
        return self._process.poll() is None and self.http.get("/health").is_success

    @property
    def pid(self) -> int:
        """The started process, parent of the engine's processes."""
        return self._process.pid

    def close(self) -> None:
        """Stop the server and everything that it started."""
        self.http.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
