"""API keys, the scope that each route needs, and the context of the current request."""

__all__ = ["keyring", "middleware", "request_context"]
