"""Read candidates from files of every kind, keep many of them on disk, and make controls."""

__all__ = ["candidates", "controls", "item_store", "json_lines", "load", "parsed", "record_items", "text"]
