"""Read training files as trainers do: rows of turns, in one pass and bounded memory."""

__all__ = ["candidates", "counts", "rows"]
