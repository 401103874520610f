"""Fit the parametric memory law to the cells of a sweep, and draw it."""

__all__ = ["cells", "fit", "plot"]
