"""Fetch, store, validate and register an adapter; loading is the engine's job."""
