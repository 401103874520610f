"""Fetch, store, validate and register an adapter; loading is the engine's job."""

__all__ = ["pipeline", "shared_store", "single_files", "sources", "store"]
