"""Start engines and servers in processes of their own, and measure them."""

__all__ = ["host", "memory", "serving"]
