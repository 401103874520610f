"""Make weaker copies of an adapter."""
