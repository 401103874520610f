"""What may be wrong with a machine, an installation or a configuration, and what to change."""

__all__ = ["checks", "findings"]
