"""The valid API keys: from the environment, from a file and from the registry."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lorecall.adapters.access.keys import ApiKey, KeyRing, key_from_secret, read_key_file
from lorecall.adapters.core.errors import LorecallError, UsageError
from lorecall.adapters.registry.registry import Registry


class UnauthenticatedError(LorecallError):
    """The request has no API key, or an unknown or expired one."""

    exit_code = 2
    status = 401
    code = "invalid_api_key"


class KeyGuard:
    """Authenticates callers. Once there has been a key, keys are required until the server stops.

    Args:
        registry: Holds keys, which may change at any time; `reload` reads them again.
        secrets: (origin, secret) of each key with every scope, from the environment or the command line.
        file: A file of keys, read once.
        always: Whether a key is required even while none exists, as on an address that others can reach.
    """

    def __init__(
        self, registry: Registry, secrets: Iterable[tuple[str, str]], file: Path | None, *, always: bool
    ) -> None:
        self._registry = registry
        self._fixed = [key_from_secret(secret, where) for where, secret in secrets]
        self._fixed += read_key_file(file) if file is not None else ()
        self._ring = KeyRing(())
        self.enforced = always
        self.reload()

    @property
    def count(self) -> int:
        """How many keys are valid now."""
        return len(self._ring)

    def reload(self) -> None:
        """Read the registry's keys again."""
        self._ring = KeyRing([*self._fixed, *self._registry.keys.active()])
        self.enforced = self.enforced or self.count > 0 or self._registry.keys.exist()

    def authenticate(self, authorization: Sequence[str], api_key: Sequence[str] = ()) -> ApiKey | None:
        """Return the caller's key; None on a server that requires none.

        Args:
            authorization: The request's `Authorization` headers.
            api_key: Its `x-api-key` headers, which Anthropic's clients send.

        Raises:
            UnauthenticatedError: A key is required, and there is none, or an unknown or expired one, or the
                headers hold different keys.
        """
        if not self.enforced:
            return None
        secrets = {secret for secret in (*map(bearer, authorization), *map(str.strip, api_key)) if secret}
        if len(secrets) > 1:
            raise UnauthenticatedError(
                "the Authorization and x-api-key headers hold different API keys",
                hint="send one key, in either header",
            )
        key = self._ring.authenticate(secrets.pop()) if secrets else None
        if key is None:
            raise UnauthenticatedError(
                "the API key is missing, unknown or expired", hint="send Authorization: Bearer KEY"
            )
        return key


def bearer(authorization: str) -> str:
    """Return the key in an `Authorization` header; "" for any scheme but Bearer, whatever its case."""
    scheme, _, secret = authorization.strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def check_exposure(host: str | None, guard: KeyGuard) -> None:
    """Refuse to listen on an address that others can reach without keys.

    Raises:
        UsageError: Other machines can reach the address and there is no key.
    """
    if not is_loopback(host) and not guard.count:
        raise UsageError(
            f"without API keys the server listens on loopback only, not on {host or 'every address'}",
            hint="set LORECALL_ADMIN_KEY or LORECALL_API_KEYS_FILE, or leave --host at 127.0.0.1",
            param="host",
        )


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1") or (host or "").startswith("127.")
