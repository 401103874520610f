"""What every room uses: errors, refusals, strict JSON parsing, atomic writes."""

__all__ = [
    "atomic_directory",
    "atomic_file",
    "beneath",
    "canonical_json",
    "errors",
    "field_errors",
    "locked_folders",
    "refusals",
    "strict_json",
    "tracing",
]
