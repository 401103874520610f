"""Read a PEFT adapter directory: configuration, header of the weights, digest."""
