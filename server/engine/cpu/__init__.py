"""Fixes and kernels for vLLM's CPU engine."""
