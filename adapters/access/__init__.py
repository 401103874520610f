"""API keys with their scopes, and rate limits."""
