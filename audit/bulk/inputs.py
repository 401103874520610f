"""Fetch what a bulk audit reads from an object store."""

from pathlib import Path

import fsspec
from lorecall.adapters.core.errors import CandidateError


def fetched(address: str, folder: Path) -> str:
    """Return a path on this machine for an address: the address itself, unless it names another file system.

    Args:
        address: A path, or such as `s3://bucket/key` or `s3://bucket/*.parquet`.
        folder: Where files are copied to.

    Returns:
        The path of the one file, or of the folder of all that match.

    Raises:
        CandidateError: Nothing matches, or it cannot be read.
    """
    if "://" not in address:
        return address
    try:
        system, _, paths = fsspec.get_fs_token_paths(address)
        for path in paths:
            system.get_file(path, str(folder / Path(path).name))
    except (OSError, ValueError, ImportError) as error:
        raise CandidateError(
            f"{address!r} cannot be read: {type(error).__name__}",
            hint="s3:// needs lorecall[s3], and credentials in the environment",
            param="data",
        ) from None  # the cause may hold credentials
    if not paths:
        raise CandidateError(f"nothing at {address!r}", param="data")
    return str(folder / Path(paths[0]).name if len(paths) == 1 else folder)
