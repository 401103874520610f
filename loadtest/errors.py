"""What can go wrong in a load test through no fault of the server's."""


class LoadtestError(Exception):
    """A load test that cannot be run, or that ended without a result.

    Args:
        message: What was wrong, with the offending value.
        hint: What would be right.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ScenarioError(LoadtestError):
    """A scenario file that is missing, no YAML, or not what the schema asks for."""
