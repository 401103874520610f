"""Fit the parametric memory law to the cells of a sweep, draw it, and predict what a rank recites."""

__all__ = ["capacity", "cells", "fit", "fit_quality", "forms", "plot", "recall"]
