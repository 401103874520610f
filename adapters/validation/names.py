"""Which names an adapter may have."""

import re
from collections.abc import Collection

from lorecall.adapters.core.refusals import NameRefusedError, Reason, safe_repr

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(NAME_PATTERN, re.ASCII)


def check_name(name: str, reserved: Collection[str] = ()) -> str:
    """Return the name if an adapter may have it.

    ASCII only: two different names never look the same, and none can leave a directory or break a log line.

    Args:
        name: The requested name.
        reserved: Names in other use, such as the base model's.

    Raises:
        NameRefusedError: It does not match `NAME_PATTERN`, or is reserved.
    """
    if not _NAME.fullmatch(name):
        raise NameRefusedError(
            Reason.BAD_NAME,
            f"{safe_repr(name)} is no adapter name",
            hint="1 to 128 ASCII letters, digits, dots, underscores and hyphens, a letter or digit first",
            param="name",
        )
    if name in reserved:
        raise NameRefusedError(
            Reason.BAD_NAME,
            f"{name!r} is the name of something else here",
            hint="choose another name",
            param="name",
        )
    return name
