"""Whole audits: one adapter, a matrix, several ranks, weaker copies."""

__all__ = ["estimate", "fidelity", "matrix", "mitigation", "plan", "planned", "ranks", "sample", "single"]
