"""From token probabilities and a greedy decode to one verdict for each snippet."""

__all__ = [
    "decoding",
    "epsilon",
    "framed_judges",
    "journal",
    "match",
    "peer_measures",
    "rule",
    "views",
    "written_form",
]
