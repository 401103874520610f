"""Read a PEFT adapter directory: configuration, header of the weights, digest."""

__all__ = [
    "adapter",
    "companions",
    "config",
    "digest",
    "files",
    "patterns",
    "safetensors_header",
    "training_record",
    "weights",
]
