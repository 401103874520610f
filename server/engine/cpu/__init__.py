"""Fixes and kernels for vLLM's CPU engine."""

__all__ = ["target_scores"]
