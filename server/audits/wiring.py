"""Builds the audit service and its worker, for `lorecall serve` and for `lorecall audit serve`."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from lorecall.adapters.access.fleet_limits import make_buckets
from lorecall.adapters.access.keys import parse_rate_limits
from lorecall.adapters.access.rate_limit import RateLimiter
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.intake.single_files import FileSources
from lorecall.adapters.intake.sources import SourcePolicy
from lorecall.adapters.registry.registry import Registry
from lorecall.audit.jobs.references import References
from lorecall.audit.jobs.runner import Admissions, Engines, Runner
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import DOWNLOADS, Spool
from lorecall.audit.jobs.store import AuditStore
from lorecall.audit.jobs.worker import Worker
from lorecall.audit.reports.signing import read_signing_key
from lorecall.server.auth.limits import Limits
from lorecall.server.observability.audit_metrics import AuditMetrics
from lorecall.server.observability.metrics import AdapterLabels
from lorecall.server.settings import ServerSettings
from prometheus_client import CollectorRegistry


def make_limits(settings: ServerSettings) -> Limits:
    """Return the rate limits that a server's settings ask for.

    Raises:
        UsageError: They cannot be used.
    """
    by_model = {pattern: parse_rate_limits(values) for pattern, values in settings.adapter_limits.items()}
    return Limits(by_model, RateLimiter(make_buckets(settings.limits_url.get_secret_value())))


@dataclass(frozen=True, slots=True)
class AuditParts:
    """What a server needs of the audit service.

    Attributes:
        service: What its routes call.
        worker: Does the audits; to be started, and closed at the end.
        stop: Stops the worker after its current batch, without waiting for that.
        metrics: The audits' metrics.
        watchers: Called by the worker's thread before and after each audit, and while it waits, with a value that
            compares unequal after any audit changed; to be filled before the worker starts.
    """

    service: AuditService
    worker: Worker
    stop: threading.Event
    metrics: AuditMetrics
    watchers: list[Callable[[object], None]]


def make_audits(
    registry: Registry,
    engines: Engines,
    settings: ServerSettings,
    series: CollectorRegistry,
    label: AdapterLabels,
    admissions: Admissions | None = None,
    *,
    keyed: bool,
) -> AuditParts:
    """Return the audit service over a registry and an engine.

    Args:
        registry: Stores the audits.
        engines: Scores served adapters.
        settings: Lease, batch and spool.
        series: The registry of its metrics.
        label: Bounds the adapters that have gauges.
        admissions: What admits versions, where this server has an engine to load them into.
        keyed: Whether the server asks for API keys; without, it reads all local folders unless told otherwise.

    Raises:
        UsageError: The signing key cannot be used.
    """
    store, spool = AuditStore(registry.database), Spool(settings.spool_folder())
    metrics, stop = AuditMetrics(series, label), threading.Event()
    watchers: list[Callable[[object], None]] = []
    references = _references(settings, keyed=keyed)
    runner = Runner(
        store,
        spool,
        engines,
        worker=uuid.uuid4().hex,
        lease=timedelta(seconds=settings.audit_lease_seconds),
        batch=settings.audit_batch,
        seen=metrics.seen,
        stop=stop,
        admissions=admissions,
        ended=metrics.ended,
        signer=None if settings.signing_key is None else read_signing_key(settings.signing_key),
        keep=timedelta(days=settings.audits_days),
        references=references,
    )

    def refresh() -> None:
        changed = metrics.refresh(store)
        for watch in watchers:
            watch(changed)

    worker = Worker(runner, refresh)
    service = AuditService(store, spool, engines, worker.wake, settings.audit_max_snippets, references)
    return AuditParts(service, worker, stop, metrics, watchers)


def _references(settings: ServerSettings, *, keyed: bool) -> References:
    """Return what reads files by address: from where adapters may come, and never out of our own folders."""
    own = (settings.store, settings.spool_folder())
    policy = SourcePolicy(
        allowed=settings.allowed_sources(keyed=keyed),
        barred=SourceList((*(str(one.absolute()) for one in own), *filter(None, [settings.shared]))),
        max_bytes=settings.max_adapter_bytes,
        download_seconds=settings.download_seconds,
    )
    return References(
        FileSources(settings.spool_folder() / DOWNLOADS, policy), settings.audit_max_referenced_snippets
    )
