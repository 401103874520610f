"""Train LoRA adapters on the quantised base, with the engine's arithmetic."""

__all__ = ["options", "sweep", "train"]
