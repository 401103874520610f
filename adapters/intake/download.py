"""Download an adapter through fsspec, resuming what an earlier attempt or another process left."""

import dataclasses
import hashlib
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import fsspec
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import parse_hf_uri
from lorecall.adapters.access.source_list import HUB, Place, refused
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, StoreFullError, safe_repr
from lorecall.adapters.peft_format.companions import COMPANIONS, MAX_COMPANION_BYTES
from lorecall.adapters.peft_format.files import (
    ADAPTER_FILES,
    REQUIRED_FILES,
    instead_of_adapter,
)

ATTEMPTS = 4
_CHUNK_BYTES = 8 << 20
_MAX_NAMES = 1000
_RESERVE_BYTES = 64 << 20
_VERSION = "version:"
_ETAG = "etag:"
_PIN = re.compile(rf"({_VERSION}|{_ETAG})[!-~]{{1,1024}}")


class Deadline:
    """When a download must be over; the same moment for all of its waits.

    Args:
        seconds: How long it may take from now.
        stopping: Set when the process ends, which ends every download.
    """

    def __init__(self, seconds: float, stopping: threading.Event | None = None) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._stopping = stopping

    def check(self, location: str) -> None:
        """Check that there is time left.

        Raises:
            SourceRefusedError: There is none, or the process ends.
        """
        if self._stopping is not None and self._stopping.is_set():
            problem, hint = "is not fetched any further: the server stops", "try again"
        elif time.monotonic() >= self._end:
            problem = f"has not arrived in {self._seconds:g} s"
            hint = "try again: what has arrived is kept; LORECALL_DOWNLOAD_SECONDS is the limit"
        else:
            return
        raise SourceRefusedError(
            Reason.SOURCE_FAILED, f"{safe_repr(location)} {problem}", hint=hint, param="source"
        )


class Download:
    """A download of an adapter's files from one place on an fsspec file system.

    Args:
        place: Directory or archive there. What it is pinned to is fetched, or nothing.
        options: fsspec's storage options for it.
        max_bytes: Limit on the sum of the file sizes that the source states; no more is read of a file.
        deadline: When it must be over, checked between two reads; the file system bounds how long one read takes.
        sleep: Waits between attempts; seconds.

    Raises:
        SourceRefusedError: The pins are malformed, or the hub has no such revision.
    """

    def __init__(
        self,
        place: Place,
        options: Mapping[str, Any],
        *,
        max_bytes: int,
        deadline: Deadline | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._location = place.address
        self._scheme = place.scheme
        self._options = options
        self._max_bytes = max_bytes
        self._deadline = deadline or Deadline(math.inf)
        self._sleep = sleep
        self._pins = _read_pins(place)
        self._found: dict[str, str] = {}
        self._files = self._guard(lambda: fsspec.filesystem(place.scheme, **options))
        if place.scheme == HUB:
            self._location = self._at_commit()

    @property
    def pinned(self) -> str:
        """The address of the very files that were fetched: with the hub's commit, or the versions on S3."""
        return self._location + ("#" + urlencode(self._found, safe=":") if self._found else "")

    def directory(self, target: Path) -> None:
        """Fetch the adapter's files to a directory; files there are kept if the source has not changed.

        Raises:
            SourceRefusedError: The source lacks a file, is too large, keeps changing, or fails.
            StoreFullError: The disk has too little room.
        """
        wanted = {name: f"{self._location}/{name}" for name in ADAPTER_FILES}
        self._fetch(wanted, target)

    def beside(self, target: Path) -> None:
        """Fetch the starts of the tokenizer's files beside the adapter, after it; none where that fails."""
        for name in COMPANIONS:
            self._deadline.check(self._location)
            with suppress(FileNotFoundError, SourceRefusedError):
                (target / name).write_bytes(self._guard(partial(self._start_of, f"{self._location}/{name}")))

    def _start_of(self, path: str) -> bytes:
        with self._files.open(path, "rb") as source:
            return bytes(source.read(MAX_COMPANION_BYTES))

    def names(self) -> tuple[str, ...]:
        """Return the names in the place, if the source lists them; () otherwise."""
        try:
            listed = self._guard(lambda: self._files.ls(self._location, detail=False))
        except (FileNotFoundError, SourceRefusedError):  # reading needs no right to list
            return ()
        return tuple(sorted(str(one).rstrip("/").rpartition("/")[2] for one in listed[:_MAX_NAMES]))

    def file(self, target: Path) -> None:
        """Fetch one file, such as an archive.

        Raises:
            SourceRefusedError: The file is missing, is too large, keeps changing, or cannot be read.
            StoreFullError: The disk has too little room.
        """
        self._fetch({target.name: self._location}, target.parent)

    def state(self, name: str) -> int:
        """Pin one file as it is now without fetching it, and return its size in bytes.

        Args:
            name: What the pin calls the file; `file` must write to a target of that name.

        Raises:
            SourceRefusedError: The file is missing, or the source does not say how large it is.
        """
        info = self._infos({name: self._location})[name]
        self._check_stated([info.get("size")])
        self._found = {name: pin} if (pin := _pin_of(info)) else {}
        return int(info["size"])

    def _at_commit(self) -> str:
        """Return the hub's address with the commit that its revision is now."""
        uri = parse_hf_uri(self._location)
        api = HfApi(endpoint=self._options.get("endpoint"), token=self._options.get("token"))

        def commit() -> str | None:
            try:
                info = api.repo_info(uri.id, repo_type=uri.type, revision=uri.revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            sha: str | None = info.sha
            return sha

        sha = self._guard(commit)
        if sha is None:
            raise SourceRefusedError(
                Reason.MISSING_FILE,
                f"the hub has no {safe_repr(self._location)}",
                hint="check the name, the revision and the server's rights; if the commit was deleted, add the"
                " adapter again: LORECALL_SHARED keeps a copy of all that is added",
                param="source",
            )
        pinned: str = dataclasses.replace(uri, revision=sha).to_uri()
        return pinned.replace("hf://models/", "hf://", 1)

    def _fetch(self, wanted: Mapping[str, str], target: Path) -> None:
        if self._pins:
            wanted = self._as_pinned({name: path for name, path in wanted.items() if name in self._pins})
        for attempt in range(ATTEMPTS):
            self._deadline.check(self._location)
            if attempt:
                self._sleep(0.5 * 2**attempt)
            infos = self._infos(wanted)
            self._check_sizes(infos, target)
            try:
                for name, info in infos.items():
                    self._fetch_file(wanted[name], info, target / name)
            except _InterruptedError as error:
                failure = error
                continue
            if self._infos(wanted) == infos:
                self._found = {name: pin for name, info in infos.items() if (pin := _pin_of(info))}
                return
            failure = _InterruptedError("it changed while it was read")
        raise SourceRefusedError(
            Reason.SOURCE_FAILED,
            f"{safe_repr(self._location)} failed {ATTEMPTS} times: {failure}",
            hint="try again: what has arrived is kept",
            param="source",
        ) from failure

    def _infos(self, wanted: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return fsspec's information on each file that the source has."""
        self._files.invalidate_cache()
        infos = {name: info for name, path in wanted.items() if (info := self._info(path)) is not None}
        missing = [
            name for name in wanted if name not in infos and (name in REQUIRED_FILES or len(wanted) == 1)
        ]
        if missing:
            raise self._changed() if self._pins else self._missing(missing[0])
        if self._pins and any(_pin_of(info) != self._pins[name] for name, info in infos.items()):
            raise self._changed()
        return infos

    def _as_pinned(self, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Return where the pinned files are: in their places if the source still has them, or as old versions.

        Reading an old version needs a right of its own (s3:GetObjectVersion); the present one does not.
        """
        self._files.invalidate_cache()
        infos = {name: self._info(path) for name, path in wanted.items()}
        if all(info is not None and _pin_of(info) == self._pins[name] for name, info in infos.items()):
            return wanted
        if not all(pin.startswith(_VERSION) for pin in self._pins.values()):
            raise self._changed()
        options = {**self._options, "version_aware": True}
        self._files = self._guard(lambda: fsspec.filesystem(self._scheme, **options))
        return {
            name: f"{path}?versionId={self._pins[name].removeprefix(_VERSION)}"
            for name, path in wanted.items()
        }

    def _changed(self) -> SourceRefusedError:
        return SourceRefusedError(
            Reason.SOURCE_FAILED,
            f"{safe_repr(self._location)} has changed since the adapter was added; the bytes are gone",
            hint="add it again as a new version; LORECALL_SHARED keeps a copy of all that is added",
            param="source",
        )

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            info = self._guard(lambda: self._files.info(path))
        except FileNotFoundError:
            return None
        return dict(info) if info.get("type") == "file" else None

    def _missing(self, name: str) -> SourceRefusedError:
        where = safe_repr(self._location)
        known = instead_of_adapter(self.names(), name)
        if known is not None:
            reason, message, hint, _ = known
            return SourceRefusedError(reason, f"in {where} {message}", hint=hint, param="source")
        return SourceRefusedError(
            Reason.MISSING_FILE,
            f"{where} has no {name}",
            hint="name an adapter's directory",
            param="source",
        )

    def _check_sizes(self, infos: Mapping[str, Mapping[str, Any]], target: Path) -> None:
        total = self._check_stated([info.get("size") for info in infos.values()])
        if total > self._max_bytes:
            raise SourceRefusedError(
                Reason.TOO_LARGE,
                f"{safe_repr(self._location)} has {total} bytes",
                hint=f"the limit is {self._max_bytes}",
                param="source",
            )
        if total + _RESERVE_BYTES > shutil.disk_usage(target).free:
            raise StoreFullError(f"no room for {total} bytes under {target}", hint="free some space")

    def _check_stated(self, sizes: list[Any]) -> int:
        """Return the sum of the sizes that a source states."""
        if any(type(size) is not int for size in sizes):
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"{safe_repr(self._location)} does not say how large it is",
                hint="upload the files instead",
                param="source",
            )
        return sum(sizes)

    def _fetch_file(self, path: str, info: Mapping[str, Any], target: Path) -> None:
        """Fetch the rest of a file. A file next to it identifies what the source held when it began."""
        identity = hashlib.sha256(repr(sorted(info.items(), key=str)).encode()).hexdigest()
        identity_file = target.with_name(target.name + ".of")
        if not identity_file.exists() or identity_file.read_text() != identity:
            target.unlink(missing_ok=True)
            identity_file.write_text(identity)
        have = target.stat().st_size if target.exists() else 0
        if have == info["size"] and target.exists():
            return
        try:
            self._guard(lambda: self._append(path, target, have, info["size"]))
        except (FileNotFoundError, SourceRefusedError) as error:
            if (target.stat().st_size if target.exists() else 0) == have:
                target.unlink(missing_ok=True)  # no progress: the next attempt starts from the beginning
            raise _InterruptedError(str(error)) from error
        if target.stat().st_size != info["size"]:
            raise _InterruptedError(f"{target.name} ended early")

    def _append(self, path: str, target: Path, have: int, size: int) -> None:
        with self._files.open(path, "rb") as source, target.open("ab") as sink:
            source.seek(have)
            while have < size and (chunk := source.read(min(_CHUNK_BYTES, size - have))):
                sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())  # after a power cut, the length must not exceed the data on disk
                have += len(chunk)
                self._deadline.check(self._location)

    def _guard(self, call: Callable[[], Any]) -> Any:
        """Call a file system, and turn its errors into ours."""
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # each of the file systems raises its own errors
            raise SourceRefusedError(
                Reason.SOURCE_FAILED,
                f"{safe_repr(self._location)} cannot be read: {type(error).__name__}:"
                f" {safe_repr(str(error), 200)}",
                hint="check the address, the server's rights to it and the network",
                param="source",
            ) from error


def _pin_of(info: Mapping[str, Any]) -> str:
    """Return what identifies an object's bytes: its version, or its etag where the bucket keeps no versions."""
    version, etag = info.get("VersionId"), info.get("ETag")
    if version and version != "null":
        return f"{_VERSION}{version}"
    return _ETAG + etag.strip('"') if etag else ""


def _read_pins(place: Place) -> dict[str, str]:
    try:
        pairs = parse_qsl(place.pins, keep_blank_values=True, strict_parsing=True) if place.pins else []
        pins = dict(pairs)
    except ValueError:
        pins = {"": ""}
    if not all(map(_PIN.fullmatch, pins.values())):
        raise refused(f"{safe_repr(place.pins)} is no list of versions", "leave out what follows the #")
    return pins


class _InterruptedError(Exception):
    """A download that ended early."""
