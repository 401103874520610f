"""What an engine is started with, what is refused before that, and what it says of itself."""

__all__ = ["environment", "families", "running", "torch_companions"]
