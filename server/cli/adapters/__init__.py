"""`lorecall adapters`: train adapters, and manage those of a running server."""

__all__ = ["commands"]
