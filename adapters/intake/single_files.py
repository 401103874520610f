"""Read one file from where adapters may come from, such as a training file."""

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lorecall.adapters.access.source_list import LOCAL, Place, SourceList, read_place, refused
from lorecall.adapters.core.beneath import Folder, LeavesRootError
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr
from lorecall.adapters.intake.download import Deadline
from lorecall.adapters.intake.sources import Sources


class FileSources(Sources):
    """Makes single files available by their paths, under the policy of `Sources`."""

    def pinned(self, source: str, asker: SourceList | None = None) -> tuple[str, int]:
        """Return the address of one file as it is now, and its size in bytes, without fetching it.

        An address on the hub gets its commit, one on S3 the version or etag. A local path stays as it is.

        Raises:
            SourceRefusedError: It is not allowed, or no file is there.
        """
        place = read_place(source)
        roots = self._roots(place, source, asker)
        if place.scheme == LOCAL:
            with os.fdopen(self._opened(source, self._folder(place, roots, our_own=False)), "rb") as file:
                return place.address, os.fstat(file.fileno()).st_size
        deadline = Deadline(self.policy.download_seconds, self._stopping)
        download = self._download(place, deadline)
        size = download.state(_name_of(place))
        return download.pinned, size

    @contextmanager
    def file(self, source: str, asker: SourceList | None = None) -> Iterator[Path]:
        """Yield a path to one file, whose name has the source's suffix; it is valid during the block.

        A local file is read where it is. A download is resumed like that of `fetched`, and deleted when the block
        ends.

        Raises:
            SourceRefusedError: It is not allowed, no file is there, or it is not the one that was pinned.
            StoreFullError: The disk has too little room.
        """
        place = read_place(source)
        roots = self._roots(place, source, asker)
        deadline = Deadline(self.policy.download_seconds, self._stopping)
        name = hashlib.sha256(source.encode()).hexdigest() if place.scheme != LOCAL else uuid.uuid4().hex
        with self._locked(name, source, deadline) as directory:
            path = directory / _name_of(place)
            with ExitStack() as opened:
                if place.scheme == LOCAL:
                    handle = self._opened(source, self._folder(place, roots, our_own=False))
                    opened.callback(os.close, handle)
                    path.symlink_to(f"/proc/self/fd/{handle}")  # what was opened, whatever lies there by now
                else:
                    self._download(place, deadline).file(path)
                    os.utime(path, (0, 0))  # the same file if it is fetched again
                opened.callback(shutil.rmtree, directory, ignore_errors=True)
                yield path

    def _opened(self, source: str, folder: Folder) -> int:
        """Return the descriptor of a local file that is allowed."""
        try:
            handle = folder.open()
        except LeavesRootError as error:
            problem = f"this server does not read {safe_repr(source)}"
            raise refused(problem, "a link there leads out of its folders") from error
        except OSError as error:
            raise _no_file(source) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise _no_file(source)
        return handle


def _name_of(place: Place) -> str:
    return place.segments[-1]


def _no_file(source: str) -> SourceRefusedError:
    return SourceRefusedError(
        Reason.MISSING_FILE, f"there is no file at {safe_repr(source)}", hint="name one file", param="source"
    )
