"""Copies of the adapters, kept where all servers can fetch them whatever becomes of their sources."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from lorecall.adapters.access.source_list import LOCAL, read_place
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr
from lorecall.adapters.intake.store import Store, StoredVersion
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE


@dataclass(frozen=True)
class SharedStore:
    """A content-addressed folder on any fsspec file system, shared by the servers of one registry.

    Attributes:
        address: The folder: an absolute path, or with its scheme, such as `s3://bucket/adapters`.
        options: fsspec's storage options for it.

    Raises:
        SourceRefusedError: The address is malformed, or of an unknown file system.
    """

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read_place(self.address)
        with self._failing("read"):
            self._files()  # no request: whether there is such a file system

    def address_of(self, version: str) -> str:
        """Return the address of a version: a PEFT directory, which is fetched like any other source."""
        return f"{self.address.rstrip('/')}/{version}"

    def has(self, version: str) -> bool:
        """Return whether the folder has a version.

        Raises:
            SourceRefusedError: It does not answer.
        """
        with self._failing("read"):
            return bool(self._files().exists(f"{self.address_of(version)}/{CONFIG_FILE}"))

    def put(self, stored: StoredVersion) -> None:
        """Copy a version to the folder, unless it is there already.

        The configuration is copied last: readers ignore a directory without it. Below a path it appears whole.

        Raises:
            SourceRefusedError: It could not be written.
        """
        target = self.address_of(stored.version)
        if self.has(stored.version):
            return
        with self._failing("written"):
            place = read_place(self.address)
            if place.scheme == LOCAL:
                Store(Path(place.address), max_bytes=sys.maxsize).ingest(stored.path)
                return
            files = self._files()
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                files.put_file(str(stored.path / name), f"{target}/{name}")

    def _files(self) -> Any:
        files = fsspec.filesystem(read_place(self.address).scheme, **self.options)
        files.invalidate_cache()
        return files

    @contextmanager
    def _failing(self, done: str) -> Iterator[None]:
        """Turn the errors of a file system into ours."""
        try:
            yield
        except Exception as error:  # each file system raises its own errors
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"the adapters that the servers share cannot be {done} at {safe_repr(self.address)}: "
                f"{type(error).__name__}",
                hint="check LORECALL_SHARED and the server's credentials for it, then try again",
                param="source",
            ) from error
