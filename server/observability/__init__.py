"""Prometheus metrics of requests, adapters and audits."""

__all__ = ["access_log", "audit_metrics", "metering", "metrics", "residency"]
