"""Fetch, store, validate and register an adapter; loading it is the engine's job."""
