"""Fixes of vLLM for every platform, how they are applied and checked, and the engine's environment."""

__all__ = ["deployment", "plugin", "served_modules", "version_names"]
