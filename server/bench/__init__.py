"""Benchmarks: variants measured side by side in one run, compared by ratios with intervals."""

__all__ = [
    "comparison",
    "discovery",
    "lora",
    "material",
    "overhead",
    "paired",
    "parity",
    "report",
    "schemes",
    "scoring",
    "verify_base",
    "versus",
]
