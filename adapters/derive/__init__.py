"""Derive weaker copies of an adapter."""
