"""Find what an adapter memorised without its training data: search where it pulls away from its base."""

__all__ = ["http_explorer", "probe"]
