"""Choose candidates from training data: find what would hurt, rank it, and make controls of the same form."""

__all__ = ["discover", "finder", "scan"]
