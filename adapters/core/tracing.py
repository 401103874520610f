"""Spans of OpenTelemetry: what the server did for one request, beside vLLM's own spans of it.

Nothing is recorded until the process has a tracer provider; vLLM sets one for `--otlp-traces-endpoint`. A span
holds names, versions and counts, never a text: what an exception says is left out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("lorecall")  # asks for the provider when a span starts


@contextmanager
def span(
    name: str,
    *,
    headers: Mapping[str, str] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    **attributes: str | int,
) -> Iterator[Span]:
    """A span around the block, below the current one, or below the caller's.

    Args:
        name: The span's name, without `lorecall.`.
        headers: Of the caller's request, with its trace context if it has one; None for work of our own.
        kind: As OpenTelemetry names it.
        attributes: Without `lorecall.`.
    """
    parent = None if headers is None else _propagator.extract(headers)
    named = {f"lorecall.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(
        f"lorecall.{name}",
        context=parent,
        kind=kind,
        attributes=named,
        record_exception=False,
        set_status_on_exception=False,
    ) as here:
        try:
            yield here
        except BaseException as error:
            here.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def trace_headers() -> dict[str, str] | None:
    """Return the headers that make the current span the parent of what is called; None if none is recorded."""
    if not trace.get_current_span().is_recording():
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier
