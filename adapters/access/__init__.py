"""API keys with their scopes, and rate limits."""

__all__ = ["keys", "rate_limit", "source_list"]
