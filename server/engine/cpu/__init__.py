"""Fixes and kernels for vLLM's CPU engine."""

__all__ = ["compiled", "target_scores"]
