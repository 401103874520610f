"""Turn adapters as other trainers save them into plain LoRAs of PEFT, which the engine applies exactly."""

__all__ = ["convert", "raw_files"]
