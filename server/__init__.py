"""The engine and its HTTP face: vLLM plugins, the adapter control plane, the scoring route and the CLI."""

__all__ = ["error_responses", "executors", "launch", "settings"]
