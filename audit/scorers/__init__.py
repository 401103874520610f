"""Ask an engine for token probabilities: over HTTP, or with transformers in this process."""
