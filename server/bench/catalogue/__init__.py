"""Thousands of registered adapters: fills a store and a registry with them at once, and measures the servers."""

__all__ = ["comparing"]
