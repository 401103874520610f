"""The run on a GPU host: stages with limits of their own, each a command, and the page that they fill."""

__all__ = ["plan", "stages"]
