"""The queue of audits in the registry's database, and the worker that does them."""

__all__ = ["order", "records", "references", "runner", "service", "spool", "store", "worker"]
