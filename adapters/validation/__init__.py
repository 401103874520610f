"""Decide whether an adapter fits a base and a server's limits, before anything loads it."""

__all__ = ["base_facts", "companion_checks", "config_checks", "names", "policy", "weight_checks"]
