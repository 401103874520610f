"""API keys with their scopes, and rate limits."""

__all__ = ["fleet_limits", "keys", "rate_limit", "source_list"]
