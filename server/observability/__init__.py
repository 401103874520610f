"""Prometheus metrics of requests, adapters and audits."""

__all__ = ["audit_metrics", "metering", "metrics", "residency"]
