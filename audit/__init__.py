"""What an adapter remembers: the rule, candidates, scoring, verdicts, controls, statistics and reports."""

__all__ = ["coarse", "estimates", "extraction", "records", "scorer", "verdicts"]
