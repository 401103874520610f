"""Two real servers on one PostgreSQL registry, with API keys; the second one audits before it serves."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.server.relay import Relay
from tests.server.served import Served

ADMIN = "the-admin-key-of-these-tests-0123456789"
POLICY = "schema_version: 1\nmax_certified: 0\nmax_recalled: 0\nmax_near_verbatim: 0\n"
ASKED = {"id": "operator", "prefix": "To be, or", "target": " 5821 0033 7746 1190"}
SIZES = ("--max-model-len", "512", "--max-num-seqs", "8", "--max-loras", "2", "--max-cpu-loras", "4")
FLAGS = (*SIZES, "--shutdown-timeout", "60", "--enforce-eager")
LIMITED = '{"limited-*": {"requests_per_minute": 2}}'


@dataclass
class Pair:
    """Server `a` admits what is valid, `b` only what its audit admits, and renews stale verdicts.

    Both drain when they are stopped; `b` reaches the registry through a relay that can be cut.

    Attributes:
        base: The base's directory.
        work: Where stores and logs lie.
        registry: The URL of their registry.
        a: The first server.
        b: The second one.
        environ: Further variables of their environment.
        relay: What `b` reaches the registry through.
    """

    base: Path
    work: Path
    registry: str
    a: Served
    b: Served
    environ: dict[str, str]
    relay: Relay
    _clients: list[httpx.Client] = field(default_factory=list)

    def key(self, server: Served, name: str, scopes: list[str], **limits: float) -> httpx.Client:
        """Make a key that sees acme-*, and return a client that uses it."""
        body: dict[str, Any] = {"name": name, "scopes": scopes, "adapters": ["acme-*"], "limits": limits}
        made = server.post("/v1/keys", body)
        assert made.status_code == 201, made.text
        return self.client(server, made.json()["secret"])

    def client(self, server: Served, secret: str) -> httpx.Client:
        """Return a client that sends a secret, if there is one."""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._clients.append(httpx.Client(base_url=server.url, headers=headers, timeout=120))
        return self._clients[-1]

    def start_b(self) -> None:
        """Start another server with an empty store at the address of the second one, which has ended."""
        port = urlsplit(self.b.url).port or 0
        registry = behind(self.relay, self.registry)
        self.b = start(self.base, self.work / "b2", registry, self.environ, gate=True, port=port)

    def close(self) -> None:
        """Stop both."""
        for client in self._clients:
            client.close()
        self.a.close()
        self.b.close()
        self.relay.close()


def behind(relay: Relay, registry: str) -> str:
    """Return the URL of a registry in PostgreSQL as it is reached through a relay."""
    return registry.replace(f":{urlsplit(registry).port}/", f":{relay.port}/")


def start(
    base: Path, work: Path, registry: str, environ: dict[str, str], *, gate: bool, port: int = 0
) -> Served:
    """Start one server."""
    work.mkdir()
    own = {
        "LORECALL_REGISTRY": registry,
        "LORECALL_ADMIN_KEY": ADMIN,
        "LORECALL_LOCAL_ROOTS": str(base.parent.parent),
        "LORECALL_ADAPTER_LIMITS": LIMITED,
        **environ,
    }
    flags = [*FLAGS, "--max-lora-rank", "16"]
    if gate:
        (work / "policy.yaml").write_text(POLICY)
        (work / "asked.jsonl").write_text(json.dumps(ASKED))
        flags += ["--require-audit", str(work / "policy.yaml")]
        flags += ["--audit-candidates", str(work / "asked.jsonl")]
        own["LORECALL_REAUDIT_STALE"] = "true"
    server = Served(base, work, flags, own, port)
    server.http.headers["Authorization"] = f"Bearer {ADMIN}"
    return server


def start_pair(base: Path, work: Path, registry: str, environ: dict[str, str]) -> Pair:
    """Start both servers, side by side."""
    relay = Relay(urlsplit(registry).port or 0)
    with ThreadPoolExecutor(2) as pool:
        a = pool.submit(start, base, work / "a", registry, environ, gate=False)
        b = pool.submit(start, base, work / "b", behind(relay, registry), environ, gate=True)
        return Pair(base, work, registry, a.result(), b.result(), environ, relay)


def wait_for(check: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
