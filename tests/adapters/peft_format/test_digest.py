"""One digest is the identity of a version."""

import hashlib
from pathlib import Path

from lorecall.adapters.peft_format.digest import CHUNK_BYTES, digest_of, version_digest


def test_digest_sees_a_byte_move_between_files() -> None:
    """The same concatenation split at another place is another version."""
    assert digest_of(b"ab", [b"c"]) != digest_of(b"a", [b"bc"])
    assert digest_of(b"ab", [b"c", b"d"]) == digest_of(b"ab", [b"cd"])


def test_digest_is_the_documented_one(tmp_path: Path) -> None:
    """sha256 over the configuration's length in 8 bytes, the configuration, and the weights of any size."""
    config, weights = b'{"r": 4}', bytes(range(256)) * 5000
    assert len(weights) > CHUNK_BYTES
    (tmp_path / "weights").write_bytes(weights)
    expected = hashlib.sha256((8).to_bytes(8, "big") + config + weights).hexdigest()
    assert version_digest(config, tmp_path / "weights") == expected
