"""Who may call: keys from everywhere, and no server that others can reach without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lorecall.adapters.access.keys import Scope, digest_secret
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import KeyRow
from lorecall.server.auth.keyring import KeyGuard, UnauthenticatedError, check_exposure, is_loopback
from sqlalchemy import update

SECRET = "a-secret-of-more-than-20-characters"  # noqa: S105  # made up


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    opened = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    yield opened
    opened.close()


def test_without_keys_nobody_is_asked(registry: Registry) -> None:
    """A server on loopback without any key serves everybody."""
    assert KeyGuard(registry, (), None, always=False).authenticate("") is None


def test_keys_from_environment_file_and_registry(registry: Registry, tmp_path: Path) -> None:
    """All three kinds of key are accepted, and nothing else is."""
    file = tmp_path / "keys.yaml"
    entry = {"name": "ci", "sha256": digest_secret("secret-of-the-file"), "scopes": ["infer"]}
    file.write_text(yaml.safe_dump([entry]))
    _, stored = registry.keys.add("tenant", [Scope.AUDIT], actor="test")
    guard = KeyGuard(registry, [("LORECALL_ADMIN_KEY", SECRET)], file, always=False)
    found = {guard.authenticate(f"Bearer {s}") for s in (SECRET, "secret-of-the-file", stored)}
    assert {key.name for key in found if key} == {"LORECALL_ADMIN_KEY", "ci", "tenant"}
    for wrong in ("", "Bearer ", "Bearer nonsense", f"Basic {SECRET}", SECRET):
        with pytest.raises(UnauthenticatedError):
            guard.authenticate(wrong)


def test_anthropic_clients_send_another_header(registry: Registry) -> None:
    """`x-api-key` counts where there is no bearer token."""
    guard = KeyGuard(registry, [("LORECALL_ADMIN_KEY", SECRET)], None, always=False)
    assert guard.authenticate("", SECRET) is not None


def test_a_server_that_had_a_key_never_opens_again(registry: Registry) -> None:
    """Revoking the last key locks everybody out; it does not let everybody in."""
    guard = KeyGuard(registry, (), None, always=False)
    key, secret = registry.keys.add("only", [Scope.ADMIN], actor="test")
    guard.reload()
    assert guard.authenticate(f"Bearer {secret}") is not None
    registry.keys.revoke(key.id, actor="test")
    guard.reload()
    with pytest.raises(UnauthenticatedError):
        guard.authenticate("")


def test_keys_that_nobody_can_read_do_not_open_the_server(registry: Registry) -> None:
    """Where a newer release made the only key, callers are turned away; they are not all let in."""
    key, _ = registry.keys.add("new", [Scope.ADMIN], actor="test")
    with registry.database.change() as session:
        session.execute(update(KeyRow).values(scopes=["teleport"]))
    with pytest.raises(UnauthenticatedError):
        KeyGuard(registry, (), None, always=False).authenticate("")
    registry.keys.revoke(key.id, actor="test")
    assert KeyGuard(registry, (), None, always=False).authenticate("") is None


@pytest.mark.parametrize("host", [None, "", "0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104
def test_no_exposure_without_keys(registry: Registry, host: str | None) -> None:
    """An address that others can reach is refused while there is no key, and served with one."""
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="loopback"):
        check_exposure(host, KeyGuard(registry, (), None, always=True))
    check_exposure(host, KeyGuard(registry, [("LORECALL_ADMIN_KEY", SECRET)], None, always=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(registry: Registry, host: str) -> None:
    """Only this machine can reach loopback."""
    check_exposure(host, KeyGuard(registry, (), None, always=False))
