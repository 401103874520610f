"""Prometheus metrics of requests, adapters and audits."""
