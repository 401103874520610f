"""A real `lorecall audit serve` for tests: the console command on a free port, to be killed and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
from lorecall.server.bench.processes.serving import free_port

START_S = 60
DONE_S = 240


class AuditServe:
    """One service process at a time, with its database, spool and log under `work`.

    Args:
        server: URL of the server that scores.
        work: Where it keeps everything.
        environ: Variables beside the caller's.
    """

    def __init__(self, server: str, work: Path, environ: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.work = work
        self.log = work / "audit.log"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        command = [str(Path(sys.executable).with_name("lorecall")), "audit", "serve", "--server", server]
        self._command = [*command, "--registry", f"sqlite:///{work / 'audits.db'}", "--port", str(self.port)]
        self._environ = {**os.environ, "LORECALL_STORE": str(work / "store"), **(environ or {})}
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with self.log.open("a") as sink:
            self._process = subprocess.Popen(
                self._command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self._environ,
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if self.http.get("/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"no audit service: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill the process as `kill -9` does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        answer = self.http.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    def submit(self, body: dict[str, Any]) -> str:
        """Ask for an audit, and return its id."""
        answer = self.http.post("/v1/audits", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def wait(self, audit_id: str) -> dict[str, Any]:
        """Wait until an audit is over, and return it."""
        end = time.monotonic() + DONE_S
        while time.monotonic() < end:
            found: dict[str, Any] = self.get(f"/v1/audits/{audit_id}")
            if found["state"] not in ("queued", "running"):
                return found
            time.sleep(0.1)
        raise AssertionError(f"audit {audit_id} is not over: {found['progress']}")

    def close(self) -> None:
        """Stop the process in good order."""
        self.http.close()
        self._process.terminate()
        self._process.wait(timeout=30)
