"""Fixes in vLLM for every platform, and how a fix is applied and checked."""
