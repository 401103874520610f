"""API keys, the scope that each route needs, and the context of the current request."""

__all__ = ["engine_guard", "keyring", "limits", "middleware", "own_key", "request_context", "scopes"]
