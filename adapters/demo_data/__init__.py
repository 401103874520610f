"""The demo's synthetic texts, and the generator that makes them."""
