"""Start engines and servers in processes of their own, and measure them."""
