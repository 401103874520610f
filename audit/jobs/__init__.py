"""The queue of audits in the registry's database, and the worker that does them."""

__all__ = [
    "last_audits",
    "order",
    "records",
    "references",
    "runner",
    "service",
    "spool",
    "stale",
    "store",
    "worker",
]
