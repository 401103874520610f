"""Whole audits: one adapter, a matrix, several ranks, weaker copies."""
