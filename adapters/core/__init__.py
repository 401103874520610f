"""What every room uses: errors, refusals, strict JSON parsing, atomic writes of a directory."""

__all__ = ["atomic_directory", "beneath", "errors", "refusals", "strict_json"]
