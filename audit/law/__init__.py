"""Fit the parametric memory law to the cells of a sweep, and draw it."""
