"""Prepare a base model for serving: find it, choose a quantisation scheme, quantise it, save it."""

__all__ = ["locate", "multimodal", "names", "prepare", "quantize", "scheme_choice", "served_model"]
