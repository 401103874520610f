"""API keys: who may do what, with which adapters. Secrets are random; only their digests are stored."""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from lorecall.adapters.access.rate_limit import NO_LIMITS, RateLimits
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.refusals import safe_repr

MIN_SECRET_CHARACTERS = 20
_PATTERN = re.compile(r"[A-Za-z0-9._/:@+*?-]{1,128}", re.ASCII)
_SECRET = re.compile(r"[!-~]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "sha256", "scopes", "adapters", "limits", "expires", "sources"}


class Scope(StrEnum):
    """What a key may do. `admin` includes the others."""

    INFER = "infer"
    ADAPTERS = "adapters"
    AUDIT = "audit"
    ADMIN = "admin"


class ApiKeyError(UsageError):
    """A key, or a file of keys, that cannot be used."""

    code = "invalid_key"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret.

    Attributes:
        id: Its name in limits and logs.
        name: Its name for people.
        digest: sha256 of the secret, 64 hex digits.
        scopes: What it may do.
        patterns: Glob patterns (`*`, `?`, which match `/` too) of the model names that it may use, the base's
            name included.
        limits: Its rate limits.
        expires_at: When it expires, UTC; None for never.
        sources: Where it may add adapters from, of what the server allows, beside uploads; None for all of that.
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    patterns: tuple[str, ...] = ("*",)
    limits: RateLimits = NO_LIMITS
    expires_at: datetime | None = None
    sources: SourceList | None = None

    def __post_init__(self) -> None:
        bad = [pattern for pattern in self.patterns if not _PATTERN.fullmatch(pattern)]
        if bad or not self.patterns:
            raise ApiKeyError(
                f"the key {safe_repr(self.name)} has the adapter pattern {safe_repr(bad)}",
                hint="letters, digits, any of . _ - / : @ +, and * and ?",
                param="adapters",
            )
        if not self.scopes:
            raise ApiKeyError(
                f"the key {safe_repr(self.name)} has no scope",
                hint="some of " + ", ".join(Scope),
                param="scopes",
            )

    def may(self, scope: Scope) -> bool:
        """Return whether the key has a scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, model: str) -> bool:
        """Return whether the key may use the model of that name; for others it does not exist."""
        return any(fnmatchcase(model, pattern) for pattern in self.patterns)


class KeyRing:
    """The valid keys. Immutable: make a new one when keys change.

    Args:
        keys: The keys of all sources; of two with the same digest the first counts.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_digest: dict[str, ApiKey] = {}
        for key in keys:
            self._by_digest.setdefault(key.digest, key)

    def __len__(self) -> int:
        return len(self._by_digest)

    def authenticate(self, secret: str, now: datetime | None = None) -> ApiKey | None:
        """Return the key that a secret belongs to; None if there is none, or it has expired.

        The digest is looked up, not the secret, so the duration reveals nothing about any secret.
        """
        key = self._by_digest.get(digest_secret(secret))
        if key is None or (key.expires_at is not None and key.expires_at <= (now or datetime.now(UTC))):
            return None
        return key


def new_secret() -> str:
    """Return a new secret: 256 random bits, with a prefix that secret scanners can recognise."""
    return "lorecall-" + secrets.token_urlsafe(32)


def digest_secret(secret: str) -> str:
    """Return the digest of a secret. Plain sha256 suffices because secrets are long and random."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def key_from_secret(secret: str, name: str = "environment") -> ApiKey:
    """Return a key with every scope for a secret of the operator's, such as one in an environment variable.

    Raises:
        ApiKeyError: The secret is short enough to be guessed, or holds what a header does not carry unchanged.
    """
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise ApiKeyError(
            f"the API key from {name} has {len(secret)} characters",
            hint=f"at least {MIN_SECRET_CHARACTERS}, random, such as of `openssl rand -base64 32`",
        )
    if not _SECRET.fullmatch(secret):
        raise ApiKeyError(
            f"the API key from {name} holds a space or a character outside printable ASCII",
            hint="an HTTP header cannot carry those; take letters, digits and punctuation",
        )
    return ApiKey(id=name, name=name, digest=digest_secret(secret), scopes=frozenset({Scope.ADMIN}))


def read_key_file(path: Path) -> tuple[ApiKey, ...]:
    """Read keys from a YAML list of `{name, sha256, scopes, adapters, limits, expires, sources}`.

    Raises:
        ApiKeyError: The file or an entry is wrong; the message says which and how.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ApiKeyError(f"the key file {path} cannot be read: {error}", param="keys") from error
    if not isinstance(entries, list):
        raise ApiKeyError(
            f"the key file {path} is no list", hint="- {name: ..., sha256: ..., scopes: [infer]}"
        )
    keys = tuple(_entry(entry, f"entry {number} of {path}") for number, entry in enumerate(entries, 1))
    names = [key.name for key in keys]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ApiKeyError(
            f"the key file {path} has the name {safe_repr(twice.pop())} twice", hint="one key a name"
        )
    return keys


def parse_scopes(values: Iterable[str]) -> frozenset[Scope]:
    """Return scopes from their names.

    Raises:
        ApiKeyError: One is unknown.
    """
    try:
        return frozenset(Scope(value) for value in values)
    except ValueError as error:
        raise ApiKeyError(str(error), hint="scopes are " + ", ".join(Scope), param="scopes") from error


def parse_rate_limits(values: Mapping[str, Any]) -> RateLimits:
    """Return rate limits from a mapping of `RateLimits`' fields.

    Raises:
        ApiKeyError: A field is unknown or no positive number.
    """
    known = {field.name for field in fields(RateLimits)}
    try:
        return RateLimits(**values)
    except (TypeError, ValueError) as error:
        raise ApiKeyError(
            f"limits {safe_repr(dict(values))} cannot be used",
            hint="positive numbers for " + ", ".join(sorted(known)),
        ) from error


def parse_sources(entries: Iterable[object] | None) -> SourceList | None:
    """Return the sources of a key from their prefixes; None for no limit.

    Raises:
        ApiKeyError: One is no prefix of sources.
    """
    try:
        return None if entries is None else SourceList(tuple(map(str, entries)))
    except UsageError as error:
        raise ApiKeyError(error.message, hint=error.hint, param="sources") from error


def _entry(entry: Any, where: str) -> ApiKey:
    if not isinstance(entry, dict) or not {"name", "sha256", "scopes"} <= entry.keys() <= _FIELDS:
        raise ApiKeyError(
            f"{where} does not have the right fields",
            hint="name, sha256 and scopes; adapters, limits, expires and sources may be added; a secret may not",
        )
    name, digest, expires = str(entry["name"]), str(entry["sha256"]), entry.get("expires")
    if not _DIGEST.fullmatch(digest):
        raise ApiKeyError(
            f"{where} has no sha256 of 64 lower-case hex digits", hint="lorecall adapters keys add"
        )
    if expires is not None and not isinstance(expires, datetime):
        raise ApiKeyError(
            f"{where} expires at {safe_repr(expires)}", hint="a time such as 2027-01-31T00:00:00Z"
        )
    scopes, patterns, limits = entry["scopes"], entry.get("adapters", ["*"]), entry.get("limits", {})
    sources = entry.get("sources")
    lists = (scopes, patterns, [] if sources is None else sources)
    if not all(isinstance(one, list) for one in lists) or not isinstance(limits, dict):
        raise ApiKeyError(
            f"{where} is malformed", hint="scopes, adapters and sources are lists, limits is a mapping"
        )
    return ApiKey(
        id=f"file:{name}",
        name=name,
        digest=digest,
        scopes=parse_scopes(map(str, scopes)),
        patterns=tuple(map(str, patterns)),
        limits=parse_rate_limits(limits),
        expires_at=expires.replace(tzinfo=expires.tzinfo or UTC) if expires else None,
        sources=parse_sources(sources),
    )
