"""Fixes for the engine on a GPU: where adapters go, and scores of target tokens through its second runner."""
