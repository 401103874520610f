"""`lorecall audit`: audits, reports and their exit codes."""

__all__ = ["commands"]
