"""Fixes and fast paths inside the engine, one small file each, applied through vLLM's `general_plugins`."""
