"""A collector of OpenTelemetry spans: OTLP over HTTP, https://opentelemetry.io/docs/specs/otlp/."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

LIMIT_S = 60


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it arrived; ids in hex."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector:
    """The spans that have arrived at `address`."""

    address: str
    spans: list[CollectedSpan] = field(default_factory=list)

    def wait(self, wanted: Callable[[CollectedSpan], bool]) -> CollectedSpan:
        """Return the first span of a kind, once it has arrived."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            for one in list(self.spans):
                if wanted(one):
                    return one
            time.sleep(0.1)
        raise AssertionError(f"no such span among {sorted({one.name for one in self.spans})}")


def _span(one: Any) -> CollectedSpan:
    attributes = {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in one.attributes
    }
    ids = (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex())
    return CollectedSpan(one.name, *ids, attributes, one.status.code == one.status.STATUS_CODE_ERROR)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            sent = ExportTraceServiceRequest.FromString(body)
            collector.spans += [
                _span(one)
                for part in sent.resource_spans
                for scope in part.scope_spans
                for one in scope.spans
            ]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield collector
    server.shutdown()
    server.server_close()
