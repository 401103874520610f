"""Looks for texts that must not be there: as they are, escaped, as token ids, packed in text, compressed."""

import base64
import binascii
import html
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_plus

INTEGERS = re.compile(r"\d{1,7}(?:[^0-9A-Za-z.+-]{1,12}\d{1,7})+")
"""Numbers with only white space, commas, brackets or quotes between them, however they were printed."""
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
HEX = re.compile(r"(?:[0-9a-fA-F]{2}){8,}")
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True)
class SecretFinder:
    """Finds secrets in whatever an audit leaves behind.

    Attributes:
        secrets: The texts.
        decode: Makes text of token ids.
        window: A secret is found where so many characters of it in a row are.
    """

    secrets: Sequence[str]
    decode: Callable[[Sequence[int]], str]
    window: int = 14

    def found(self, name: str, content: str | bytes) -> list[str]:
        """Return where a secret is in an artefact, one line for each place."""
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        forms = {"as it is": [raw.decode("utf-8", "replace")], **self._decoded(raw.decode("latin-1"))}
        return [
            f"{name}: {secret!r} {how}"
            for how, texts in forms.items()
            for secret in self._in(reading for text in texts for reading in readings(text))
        ]

    def found_in(self, folder: Path) -> list[str]:
        """Return where a secret is in the files below a folder, and in the columns of its SQLite databases.

        Weights are passed over: they are large, and were there before.
        """
        places = []
        files = (one for one in folder.rglob("*") if one.is_file() and one.suffix != ".safetensors")
        for path in sorted(files):
            places += self.found(path.name, path.read_bytes())
            if path.suffix == ".db":
                places += [place for name, column in columns(path) for place in self.found(name, column)]
        return places

    def _in(self, texts: Iterable[str]) -> list[str]:
        """Return the secrets that a window of stands in one of the texts."""
        parts = {
            secret: [secret[i : i + self.window] for i in range(max(1, len(secret) - self.window + 1))]
            for secret in self.secrets
        }
        found = {
            secret for text in texts for secret, own in parts.items() if any(part in text for part in own)
        }
        return sorted(found)

    def _decoded(self, text: str) -> dict[str, list[str]]:
        runs = [[int(n) for n in re.findall(r"\d+", run)] for run in INTEGERS.findall(text)]
        with suppress(ValueError):
            runs += list(integer_arrays(json.loads(text)))
        packed = [*map(_base64, BASE64.findall(text)), *map(binascii.unhexlify, HEX.findall(text))]
        return {
            "as token ids": [self.decode(run) for run in runs],
            "in base64 or hexadecimal": [one.decode("utf-8", "replace") for one in packed],
            "compressed": [_inflated(one).decode("utf-8", "replace") for one in packed],
        }


def readings(text: str) -> set[str]:
    """Return a text as it stands and with its escapes undone: of HTML, of addresses, of JSON."""
    return {text, html.unescape(text), unquote_plus(text), ESCAPE.sub(_character, text)}


def integer_arrays(value: object) -> Iterator[list[int]]:
    """Yield every array of integers in JSON values, and every column of an array of objects or arrays."""
    if isinstance(value, dict):
        for one in value.values():
            yield from integer_arrays(one)
    elif isinstance(value, list):
        yield _integers(value)
        rows = [one for one in value if isinstance(one, dict)]
        for key in {key for row in rows for key in row}:
            yield _integers(row.get(key) for row in rows)
        lists = [one for one in value if isinstance(one, list)]
        for place in range(max(map(len, lists), default=0)):
            yield _integers(one[place] for one in lists if place < len(one))
        for one in value:
            yield from integer_arrays(one)


def columns(database: Path) -> Iterator[tuple[str, str]]:
    """Yield each column of each table of a SQLite database as text, its values one under the other."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in names:
            cursor = db.execute(f'SELECT * FROM "{table}"')  # noqa: S608  a name of the database's own
            rows = cursor.fetchall()
            for place, described in enumerate(cursor.description):
                values = [row[place] for row in rows]
                yield f"{table}.{described[0]}", json.dumps(values, default=repr, ensure_ascii=False)
                for value in values:
                    yield f"{table}.{described[0]}", value if isinstance(value, str) else repr(value)


def _integers(values: Iterable[object]) -> list[int]:
    return [one for one in values if isinstance(one, int) and not isinstance(one, bool)]


def _character(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 16))


def _base64(text: str) -> bytes:
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    return b"".join(base64.b64decode(plain[at:][: (len(plain) - at) // 4 * 4]) for at in range(4))


def _inflated(content: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj(wbits=47).decompress(content, 1 << 20)
    return b""
