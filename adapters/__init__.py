"""Adapters: their format, validation, storage, registry and training; the base models that they are made for."""
