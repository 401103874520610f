"""Why an adapter is refused: one exception type per seam, each with a stable reason code."""

from enum import StrEnum

from lorecall.adapters.errors import AdapterError, LorecallError


class Reason(StrEnum):
    """Stable reason codes. Values are metric labels: add to them, never rename one."""

    # names
    BAD_NAME = "bad_name"
    # files
    MISSING_FILE = "missing_file"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    SYMLINK = "symlink"
    PICKLE = "pickle"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    CORRUPT_STORE = "corrupt_store"


class RefusedError(AdapterError):
    """An adapter that is not taken in.

    Args:
        reason: The stable reason code.
        message: What was wrong, with the offending value.
        hint: What would be right.
        param: The parameter, field or file at fault.
    """

    def __init__(self, reason: Reason, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message, hint=hint, param=param)
        self.reason = reason


class NameRefusedError(RefusedError):
    """A name that no adapter may have."""


class FileRefusedError(RefusedError):
    """A file that is missing, too large, not a plain file, or of a kind that is never opened."""


class StoreFullError(LorecallError):
    """The disk under the store has too little room left."""

    status = 507
    code = "store_full"
    reason = "store_full"
