"""How an engine's processes begin and end."""

__all__ = ["interrupted_start"]
