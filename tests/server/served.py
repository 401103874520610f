"""A real `lorecall serve` for tests: the console command, a free port, everything stopped at the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

COMMAND = str(Path(sys.executable).with_name("lorecall"))
START_S = 240
SMALL = ("--max-model-len", "512", "--max-num-seqs", "16", "--max-loras", "4", "--max-lora-rank", "16")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """One running server.

    Attributes:
        url: Where it listens.
        base: The base's served name.
    """

    def __init__(
        self, base: Path, work: Path, flags: Sequence[str] = SMALL, environ: dict[str, str] | None = None
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.base = base.name
        self.log = work / "server.log"
        extra = {"LORECALL_STORE": str(work / "store"), "VLLM_CPU_KVCACHE_SPACE": "1", **(environ or {})}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [COMMAND, "serve", "--base", str(base), "--port", str(port), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **extra},
                start_new_session=True,
            )
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self._wait()

    def _wait(self) -> None:
        for _ in range(START_S):
            if self._process.poll() is not None:
                break
            try:
                if self.http.get("/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(1)
        lines = [line for line in self.log.read_text().splitlines() if "rror" in line]
        raise RuntimeError("the server did not start: " + "\n".join(line[:300] for line in lines[-5:]))

    @property
    def alive(self) -> bool:
        """Whether server and engine are up."""
        return self._process.poll() is None and self.http.get("/health").is_success

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """POST a JSON body."""
        return self.http.post(path, json=body)

    def stop(self) -> None:
        """Stop the server as an operator would; kill what is left."""
        self.http.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
