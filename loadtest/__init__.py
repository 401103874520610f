"""Load tests of a running server over HTTP; imports nothing of the other folders."""

__all__ = ["errors", "mix", "report", "run", "scenario", "target"]
