"""What serving costs in memory and bandwidth: slots, key/value cache, the bound on tokens a second."""

__all__ = ["cards", "plan", "sizes"]
