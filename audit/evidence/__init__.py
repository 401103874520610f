"""What makes a report evidence: checked again from its own numbers, bundled in one file, and compared."""

__all__ = ["bundle", "changes", "diff", "verify"]
