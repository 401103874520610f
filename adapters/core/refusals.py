"""Why an adapter is refused: one exception type for each kind of input, each with a stable reason code."""

from enum import StrEnum

from lorecall.adapters.core.errors import AdapterError, LorecallError


class Reason(StrEnum):
    """Stable reason codes. Values are metric labels: add to them, never rename one."""

    BAD_NAME = "bad_name"
    # files
    MISSING_FILE = "missing_file"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    SYMLINK = "symlink"
    PICKLE = "pickle"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    CORRUPT_STORE = "corrupt_store"
    # JSON and the configuration
    BAD_JSON = "bad_json"
    DUPLICATE_KEY = "duplicate_key"
    BAD_SETTING = "bad_setting"
    NOT_LORA = "not_lora"
    UNSUPPORTED_FEATURE = "unsupported_feature"
    UNSAFE_PATTERN = "unsafe_pattern"
    RANK_TOO_LARGE = "rank_too_large"
    ABSURD_SCALING = "absurd_scaling"
    BAD_TEMPLATE = "bad_template"
    # the base
    WRONG_BASE = "wrong_base"
    BASE_UNSTATED = "base_unstated"
    UNKNOWN_MODULE = "unknown_module"
    MODULE_NOT_SERVED = "module_not_served"
    # weights
    BAD_HEADER = "bad_header"
    BAD_OFFSETS = "bad_offsets"
    BAD_DTYPE = "bad_dtype"
    BAD_SHAPE = "bad_shape"
    EMPTY = "empty"
    UNEXPECTED_TENSOR = "unexpected_tensor"
    INCOMPLETE = "incomplete"
    RANK_MISMATCH = "rank_mismatch"
    NOT_FINITE = "not_finite"
    # archives and sources
    BAD_ARCHIVE = "bad_archive"
    UNSAFE_PATH = "unsafe_path"
    AMBIGUOUS = "ambiguous"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    SOURCE_FAILED = "source_failed"


class RefusedError(AdapterError):
    """An adapter that is refused.

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
    """A name that an adapter may not have."""


class FileRefusedError(RefusedError):
    """A file that is missing, too large, not a plain file, or of a kind that is never opened."""


class ConfigRefusedError(RefusedError):
    """A configuration that is malformed, or needs a feature that the engine lacks."""


class BaseMismatchError(RefusedError):
    """An adapter for another base, or for modules that this base lacks."""


class WeightsRefusedError(RefusedError):
    """A weights file that is malformed or does not hold the expected matrices."""


class ArchiveRefusedError(RefusedError):
    """An archive that is malformed, too large, or has a path or link that leads out of it."""


class SourceRefusedError(RefusedError):
    """A source that is not allowed, or could not be read."""


class StoreFullError(LorecallError):
    """The disk under the store has too little room left."""

    status = 507
    code = "store_full"


def safe_repr(value: object, length: int = 80) -> str:
    """Return an untrusted value escaped to ASCII and cut to `length`, for a message or a log line."""
    text = ascii(value)
    return text if len(text) <= length else text[: length - 3] + "..."
