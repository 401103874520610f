"""The digest that identifies an adapter version, over its configuration and its weights."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20


def digest_of(config: bytes, weights: Iterable[bytes]) -> str:
    """Digest a configuration and weights that arrive in chunks.

    Args:
        config: The bytes of `adapter_config.json`.
        weights: The bytes of `adapter_model.safetensors`, in order.

    Returns:
        64 lower-case hex digits: sha256 over the configuration's length (8 bytes, big-endian), the
        configuration and the weights. The length makes the digest change when bytes move from one file to the
        other.
    """
    digest = hashlib.sha256(len(config).to_bytes(8, "big"))
    digest.update(config)
    for chunk in weights:
        digest.update(chunk)
    return digest.hexdigest()


def version_digest(config: bytes, weights: Path) -> str:
    """Digest a configuration and a weights file; see `digest_of`."""
    with weights.open("rb") as source:
        return digest_of(config, chunks_of(source))


def chunks_of(source: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file in chunks of a megabyte."""
    while chunk := source.read(CHUNK_BYTES):
        yield chunk
