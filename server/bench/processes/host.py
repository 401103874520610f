"""Starts an engine host and exchanges JSON lines with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.bench.processes.error_lines import error_lines

CLOSE_S = 30

MARK = "HOST "
"""Starts each line of the host's stdout that is an answer; other lines are the engine's own output."""


class EngineDiedError(LorecallError):
    """The engine's process ended instead of answering."""

    code = "engine_died"


class EngineHost:
    """A real engine in another process.

    Args:
        log: File that takes everything the engine prints.
        arguments: Keyword arguments of `vllm.LLM`.
        plugin: Whether our plugins are loaded; without them it is stock vLLM.
        environ: Variables to set beside the caller's.

    Raises:
        EngineDiedError: The engine does not start.
    """

    def __init__(
        self,
        log: Path,
        arguments: dict[str, Any],
        *,
        plugin: bool = True,
        environ: dict[str, str] | None = None,
    ) -> None:
        plugins = {"VLLM_PLUGINS": "lorecall" if plugin else "none", "VLLM_LOGGING_LEVEL": "WARNING"}
        self.log = log
        self._log = log.open("w")
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            [sys.executable, "-m", "lorecall.server.bench.processes.engine_host", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **plugins, **(environ or {})},
            start_new_session=True,
        )
        try:
            self._read()
        except BaseException:  # also SIGTERM's SystemExit: no engine may be left running
            self.close()
            raise

    def timed(self, requests: list[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
        """Send requests to the engine together; return the seconds that they took, and their answers.

        Raises:
            EngineDiedError: The engine dies of them.
        """
        stdin = self._process.stdin
        if stdin is None:
            raise EngineDiedError("the engine host has no stdin")
        try:
            stdin.write(json.dumps(requests) + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error
        answer = self._read()
        return answer["seconds"], answer["answers"]

    def run(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers alone; see `timed`."""
        return self.timed(requests)[1]

    def _read(self) -> Any:
        for line in self._process.stdout or ():
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
            self._log.write(line)
        raise self._died()

    def _died(self) -> EngineDiedError:
        self._log.flush()
        return EngineDiedError(
            f"the engine died; its log is {self.log}, its last errors: {error_lines(self.log)}"
        )

    def close(self) -> None:
        """Stop the engine and everything that it started."""
        with self._process as process, self._log:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=CLOSE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
