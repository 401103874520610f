"""The synthetic texts of the demo, and their generators."""

__all__ = ["chats"]
