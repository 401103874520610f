"""Errors of load tests."""


class LoadtestError(Exception):
    """A load test that cannot be run, or that ended without a result.

    Args:
        message: What is wrong, with the offending value.
        hint: What would be right.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ScenarioError(LoadtestError):
    """A scenario file that is missing, no YAML, or invalid by the schema."""
