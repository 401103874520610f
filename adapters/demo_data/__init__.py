"""The synthetic texts of the demo, and their generator."""
