"""Versions that no other server could fetch, kept where all of them can: uploads, and one machine's files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr
from lorecall.adapters.intake.store import StoredVersion
from lorecall.adapters.peft_format.files import ADAPTER_FILES, CONFIG_FILE


@dataclass(frozen=True)
class SharedStore:
    """A content-addressed folder that fsspec speaks to, shared by the servers of one registry.

    Attributes:
        address: The folder, with its scheme, such as `s3://bucket/adapters`.
        options: fsspec's storage options for it.
    """

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def place(self, version: str) -> str:
        """Return the address of a version: a PEFT directory, to be fetched as any other source."""
        return f"{self.address.rstrip('/')}/{version}"

    def put(self, stored: StoredVersion) -> None:
        """Copy a version there, unless it is there; the configuration last, without which it is no adapter.

        Raises:
            SourceRefusedError: It could not be written.
        """
        place = self.place(stored.version)
        try:
            files = fsspec.filesystem(self.address.split("://")[0], **self.options)
            files.invalidate_cache()
            if files.exists(f"{place}/{CONFIG_FILE}"):
                return
            for name in sorted(ADAPTER_FILES, key=lambda name: name == CONFIG_FILE):
                if (stored.path / name).is_file():
                    files.put_file(str(stored.path / name), f"{place}/{name}")
        except Exception as error:  # every file system has errors of its own
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"the adapter could not be kept at {safe_repr(self.address)} for the other servers: "
                f"{type(error).__name__}",
                hint="check LORECALL_SHARED and the server's credentials for it, then add the adapter again",
                param="source",
            ) from error
