"""Derive weaker copies of an adapter."""

__all__ = ["weaken"]
