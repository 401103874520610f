"""The engine of another server, as the audit service uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.audit.scorer import AdapterVersion, EngineInfo, Scorer
from lorecall.audit.scorers.http_client import HttpClient, read_json
from lorecall.audit.scorers.http_scorer import HttpScorer, parse


@dataclass(frozen=True, slots=True)
class HttpEngine:
    """The engine of another server, over its HTTP routes.

    Attributes:
        server: Its base URL; the API key is that of LORECALL_API_KEY.
        timeout: Seconds to wait for one answer.
    """

    server: str
    timeout: float = 600.0

    def adapter(self, name: str) -> AdapterVersion:
        """Return the version that the server says it serves. Raises AdapterNotFoundError."""
        with HttpScorer(self.server, timeout=self.timeout) as scorer:
            try:
                return scorer.adapter(name)
            except AdapterNotFoundError:  # its hint lists adapters that the caller may not see
                raise AdapterNotFoundError(f"no adapter {name[:128]!r}", param="adapter") from None

    @contextmanager
    def scorer(self, name: str) -> Iterator[Scorer]:
        """Open a new scorer over HTTP, which asks the server again which engine it is."""
        del name
        with HttpScorer(self.server, timeout=self.timeout) as scorer:
            yield scorer

    def info(self) -> EngineInfo:
        """Return what the server says that its engine is, with the ε measured so far. Raises ScorerError.

        Unlike `HttpScorer.info` it has nothing measured: a list of adapters asks for it.
        """
        with HttpClient(self.server, timeout=self.timeout) as client:
            return parse(EngineInfo, read_json(client.send("GET", "/v1/engine")), "/v1/engine")

    def adapters(self, after: str = "", contains: str = "") -> Iterator[dict[str, Any]]:
        """Yield the entries of the server's `GET /v1/adapters`, asked for page by page."""
        with HttpClient(self.server, timeout=self.timeout) as client:
            yield from client.adapters(after, contains)
