"""Where adapters may come from: the places that addresses name, and lists of the places that are allowed."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.refusals import Reason, SourceRefusedError, safe_repr

LOCAL = "file"
HUB = "hf"
FIXED_HOST = frozenset({HUB, "s3"})
"""Schemes whose host the operator sets; the addresses of others begin with a host, so a list must name it."""
NEVER = frozenset({"http", "https", "local"})
"""HTTP follows redirects to any address, also to private ones; `local` is another name of local paths."""
MAX_CHARACTERS = 1000
MAX_PIN_CHARACTERS = 4000
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.ASCII)
_SPECIAL = re.compile(r"[%?*\\]")


@dataclass(frozen=True, slots=True)
class Place:
    """What an address names.

    Attributes:
        scheme: fsspec's protocol; `LOCAL` for a path.
        segments: The parts of the place, the outermost first, for comparison: a local path without links, a hub's
            repository without revision.
        address: The address to read from, in one spelling.
        pins: What follows the `#`: the versions of its files; "" for the present ones.
    """

    scheme: str
    segments: tuple[str, ...]
    address: str
    pins: str = ""

    def is_below(self, other: "Place") -> bool:
        """Return whether this is the other place, or lies in it."""
        return self.scheme == other.scheme and self.segments[: len(other.segments)] == other.segments


@dataclass(frozen=True, slots=True)
class SourceList:
    """An allow-list of sources. A place is allowed with all that lies in it, whole path segments only.

    Attributes:
        entries: Such as `hf://acme/*`, `s3://bucket/prefix/` or `/srv/adapters`; `hf://*` is the whole hub.

    Raises:
        UsageError: An entry is no such prefix.
    """

    entries: tuple[str, ...]

    def __post_init__(self) -> None:
        self.places()

    def places(self) -> tuple[Place, ...]:
        """Return the places; of local ones as they are now, with links resolved."""
        return tuple(map(_entry, self.entries))

    def around(self, place: Place) -> Place | None:
        """Return the widest entry that a place lies in; None if it is not allowed."""
        found = [entry for entry in self.places() if place.is_below(entry)]
        return min(found, key=lambda entry: len(entry.segments), default=None)

    def __str__(self) -> str:
        return ", ".join(self.entries) or "uploads only"


def read_place(source: str) -> Place:
    """Return the place that a source names, without a request to it.

    Raises:
        SourceRefusedError: It is malformed, or could be read as another place than it seems.
    """
    address, _, pins = source.partition("#")
    match = _URL.fullmatch(source)
    too_long = len(address) > MAX_CHARACTERS or len(pins) > MAX_PIN_CHARACTERS
    if too_long or not source.isprintable() or "::" in source:
        raise refused(f"{safe_repr(source)} is no source", "one plain path or address")
    if match is None or match["scheme"] == LOCAL:
        path = Path(source.removeprefix("file://"))
        if not path.is_absolute():
            raise refused(f"{safe_repr(source)} is no absolute path", "an absolute path, or an address")
        return _local(path)
    scheme, rest = match["scheme"], address.removeprefix(match["scheme"] + "://").removesuffix("/")
    segments = tuple(rest.split("/"))
    if ".." in segments:
        raise refused(f"{safe_repr(source)} has .. in it", "name the place itself", Reason.UNSAFE_PATH)
    if "" in segments or "." in segments or _SPECIAL.search(rest):
        raise refused(
            f"{safe_repr(source)} has an empty part, or one of % ? * \\",
            "plain names between single slashes; a commit in place of a branch that has a slash",
        )
    if scheme == HUB:
        return _hub(source)
    if "@" in segments[0]:
        raise refused("the source has credentials in it", "the server uses its own")
    return Place(scheme, segments, f"{scheme}://{rest}", pins)


def refused(message: str, hint: str, reason: Reason = Reason.SOURCE_NOT_ALLOWED) -> SourceRefusedError:
    """Return the error of a source that is not allowed."""
    return SourceRefusedError(reason, message, hint=hint, param="source")


def _local(path: Path) -> Place:
    try:
        real = Path(os.path.realpath(path))
    except OSError:  # a link became a folder while it was looked at; whoever opens the path looks again
        real = Path(os.path.normpath(path))
    return Place(LOCAL, real.parts, str(real))


def _hub(source: str) -> Place:
    from huggingface_hub.constants import HF_URI_TYPE_PREFIXES  # noqa: PLC0415  takes long to import
    from huggingface_hub.errors import HfUriError  # noqa: PLC0415
    from huggingface_hub.utils import parse_hf_uri  # noqa: PLC0415

    try:
        uri = parse_hf_uri(source)
    except HfUriError as error:
        raise refused(
            f"{safe_repr(source)} is no place on the hub", "hf://org/name[@revision][/path]"
        ) from error
    path = uri.path_in_repo.rstrip("/")
    kind = () if uri.type == "model" else (f"{uri.type}s",)
    organisation, name = uri.id.split("/")
    if uri.is_bucket or "#" in source or organisation in HF_URI_TYPE_PREFIXES:
        raise refused(f"{safe_repr(source)} is no repository", "hf://org/name[@revision][/path]")
    segments = (*kind, organisation, name, *filter(None, path.split("/")))
    repository = "/".join((*kind, uri.id)) + (f"@{uri.revision}" if uri.revision else "")
    return Place(HUB, segments, f"hf://{repository}/{path}".rstrip("/"))


def _entry(entry: str) -> Place:
    wrong = UsageError(
        f"{safe_repr(entry)} is no prefix of sources",
        hint="such as hf://acme/*, s3://bucket/prefix/ or /srv/adapters",
        param="sources",
    )
    prefix = entry.removesuffix("*")
    if not entry.isprintable() or "*" in prefix or (prefix != entry and not prefix.endswith("/")):
        raise wrong  # `hf://acme*` would seem to hold hf://acme-evil, which it does not
    match = _URL.fullmatch(prefix)
    if match is None or match["scheme"] == LOCAL:
        path = Path(prefix.removeprefix("file://"))
        if not path.is_absolute() or ".." in path.parts:
            raise wrong
        return _local(path)
    scheme, rest = match["scheme"], match["rest"]
    segments = tuple(rest.removesuffix("/").split("/")) if rest else ()
    if scheme in NEVER:
        raise UsageError(
            f"adapters are not read from {scheme}://",
            hint="name the hub, S3 or a local folder, or let people upload archives",
            param="sources",
        )
    if {"", ".", ".."} & set(segments) or _SPECIAL.search(rest) or "#" in rest or "@" in rest:
        raise wrong
    if not segments and scheme not in FIXED_HOST:
        raise UsageError(
            f"{safe_repr(entry)} allows every host", hint=f"name one: {scheme}://HOST/", param="sources"
        )
    if scheme == HUB and segments[:1] == ("models",):
        segments = segments[1:]
    return Place(scheme, segments, entry)
