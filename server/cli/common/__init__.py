"""What several commands share: options, console output, requests to a server, progress bars."""

__all__ = ["client", "console", "ending", "options", "progress"]
