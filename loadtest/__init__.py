"""Load on a running server over HTTP only; imports nothing of the other folders."""
