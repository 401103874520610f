"""A real `lorecall serve` for tests: the console command on a free port, with a small engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from lorecall.server.bench.processes.serving import HttpServer

from tests.engines import Engines

SMALL = (
    *("--max-model-len", "512", "--max-num-seqs", "16", "--max-loras", "4", "--max-lora-rank", "16"),
    "--enforce-eager",  # compiling takes longer than most tests
)


class Served(HttpServer):
    """One running server of ours, with a store of its own under `work`.

    Args:
        engines: What it is forked from; without it, it is a process of the console command.
    """

    def __init__(
        self,
        base: Path,
        work: Path,
        flags: Sequence[str] = SMALL,
        environ: dict[str, str] | None = None,
        port: int = 0,
        engines: Engines | None = None,
    ) -> None:
        self._engines = engines
        self.store, self.log = work / "store", work / "server.log"
        own = {
            "LORECALL_STORE": str(self.store),
            "LORECALL_LOAD_CHECKS": "0",  # at random, it would count as a running request
            "VLLM_CPU_KVCACHE_SPACE": "1",
            **(environ or {}),
        }
        super().__init__(base, self.log, flags, environ=own, port=port)
        self.base = self.model
        self.base_folder = base

    def _start(self, command: Sequence[str], environ: dict[str, str], log: Path) -> Any:
        if self._engines is None:
            return super()._start(command, environ, log)
        return self._engines.run(command[1:], environ, log)

    @property
    def draining(self) -> float:
        """How many replaced versions are not removed yet."""
        self.http.get("/v1/adapters")  # asks the engine
        lines = self.http.get("/metrics").text.splitlines()
        return float(next(x for x in lines if x.startswith("lorecall_adapter_versions_draining")).split()[1])

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """POST a JSON body."""
        return self.http.post(path, json=body)
