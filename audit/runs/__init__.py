"""Whole audits: one adapter, a matrix, several ranks, weaker copies."""

__all__ = ["fidelity", "matrix", "mitigation", "ranks", "sample", "single"]
