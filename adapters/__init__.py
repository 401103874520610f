"""What an adapter is: manifest, validation, versions, registry, sources, capacity; base models; training."""
