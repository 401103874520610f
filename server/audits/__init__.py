"""The audit service of a running server, and the audits that let a version go live."""

__all__ = ["admission", "app", "engines", "renewals", "wiring"]
