"""Train LoRA adapters against the quantised base as it is served."""
