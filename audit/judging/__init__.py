"""From token probabilities and a greedy decode to one verdict for each snippet."""
