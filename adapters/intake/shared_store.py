"""Copies of uploads and local files, kept where all servers can fetch them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr
from lorecall.adapters.intake.store import StoredVersion
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE


@dataclass(frozen=True)
class SharedStore:
    """A content-addressed folder on any fsspec file system, shared by the servers of one registry.

    Attributes:
        address: The folder, with its scheme, such as `s3://bucket/adapters`.
        options: fsspec's storage options for it.
    """

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def address_of(self, version: str) -> str:
        """Return the address of a version: a PEFT directory, which is fetched like any other source."""
        return f"{self.address.rstrip('/')}/{version}"

    def put(self, stored: StoredVersion) -> None:
        """Copy a version to the folder, unless it is there already.

        The configuration is copied last: readers ignore a directory without it.

        Raises:
            SourceRefusedError: It could not be written.
        """
        target = self.address_of(stored.version)
        try:
            files = fsspec.filesystem(self.address.split("://")[0], **self.options)
            files.invalidate_cache()
            if files.exists(f"{target}/{CONFIG_FILE}"):
                return
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                files.put_file(str(stored.path / name), f"{target}/{name}")
        except Exception as error:  # each file system raises its own errors
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"the adapter could not be kept at {safe_repr(self.address)} for the other servers: "
                f"{type(error).__name__}",
                hint="check LORECALL_SHARED and the server's credentials for it, then add the adapter again",
                param="source",
            ) from error
