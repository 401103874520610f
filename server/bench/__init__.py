"""Benchmarks: variants measured side by side in one run, compared by ratios with intervals."""
