"""Errors that a user can correct: each names the wrong value and says what would be right."""


class LorecallError(Exception):
    """An error with a hint. The CLI prints it and exits with `exit_code`; the server answers with `status`.

    Args:
        message: What was wrong, with the offending value.
        hint: What would be right.
        param: The parameter, field or option at fault.
    """

    exit_code = 3
    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(LorecallError):
    """A wrong option, setting, path or input file."""

    exit_code = 2
    status = 400
    code = "invalid_request"


class BaseModelError(UsageError):
    """A base model that is missing, unreadable or of an unsupported kind."""

    code = "invalid_base"


class AdapterError(UsageError):
    """An adapter that cannot be served as it is: wrong rank, shapes, modules, files or base."""

    code = "invalid_adapter"


class AdapterNotFoundError(UsageError):
    """No adapter of that name."""

    status = 404
    code = "adapter_not_found"


class CandidateError(UsageError):
    """A candidate or training file with lines that cannot be used."""

    code = "invalid_candidates"


class ScorerError(LorecallError):
    """The engine could not be reached, or its answer broke the contract of `Scorer`."""

    status = 502
    code = "scorer_failed"
