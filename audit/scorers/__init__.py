"""Ask an engine for token probabilities: over HTTP, or with transformers in this process."""

__all__ = [
    "base_cache",
    "batches",
    "completions_scorer",
    "framing",
    "http_client",
    "http_scorer",
    "remote_engine",
    "sampling",
    "splits",
    "transformers_scorer",
]
