"""Who may call: keys from everywhere, and no server that others can reach without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lorecall.adapters.access.keys import ApiKeyError, Scope, digest_secret
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import KeyRow
from lorecall.server.auth.keyring import KeyGuard, UnauthenticatedError, check_exposure, is_loopback
from lorecall.server.auth.middleware import check_caller
from lorecall.server.auth.request_context import RequestContext
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
    assert KeyGuard(registry, (), None, always=False).authenticate([]) is None


def test_keys_from_environment_file_and_registry(registry: Registry, tmp_path: Path) -> None:
    """All three kinds of key are accepted, and nothing else is."""
    file = tmp_path / "keys.yaml"
    entry = {"name": "ci", "sha256": digest_secret("secret-of-the-file"), "scopes": ["infer"]}
    file.write_text(yaml.safe_dump([entry]))
    _, stored = registry.keys.add("tenant", [Scope.AUDIT], actor="test")
    guard = KeyGuard(registry, [("LORECALL_ADMIN_KEY", SECRET)], file, always=False)
    found = {guard.authenticate([f"Bearer {s}"]) for s in (SECRET, "secret-of-the-file", stored)}
    assert {key.name for key in found if key} == {"LORECALL_ADMIN_KEY", "ci", "tenant"}


OTHER = "another-secret-of-more-than-20-characters"  # a valid key as well
BEARER, KEY_HEADER = "Authorization", "X-API-Key"
HEADERS: list[tuple[list[tuple[str, str]], str]] = [
    ([(BEARER, f"Bearer {SECRET}")], "own"),
    ([(BEARER, f"bearer {SECRET}")], "own"),
    ([(BEARER, f"BEARER {SECRET}")], "own"),
    ([(BEARER, f"Bearer  {SECRET}")], "own"),
    ([(BEARER, f"Bearer {SECRET} ")], "own"),
    ([(KEY_HEADER, SECRET)], "own"),
    ([("x-api-key", f" {SECRET} ")], "own"),
    ([(BEARER, f"Bearer {SECRET}"), (KEY_HEADER, SECRET)], "own"),
    ([(BEARER, f"Bearer {SECRET}"), (BEARER, f"bearer {SECRET}")], "own"),
    ([(KEY_HEADER, SECRET), ("X-Api-Key", SECRET)], "own"),
    ([(BEARER, "Bearer "), (KEY_HEADER, SECRET)], "own"),
    ([(BEARER, f"Bearer {SECRET}"), (KEY_HEADER, "")], "own"),
    ([(BEARER, "Basic dXNlcjpwYXNz"), (KEY_HEADER, SECRET)], "own"),  # a proxy's password is not our concern
    ([(BEARER, f"Bearer {SECRET}"), (KEY_HEADER, OTHER)], "different"),
    ([(BEARER, f"Bearer {SECRET}"), (KEY_HEADER, "nonsense")], "different"),
    ([(BEARER, "Bearer nonsense"), (KEY_HEADER, SECRET)], "different"),
    ([(BEARER, f"Bearer {SECRET}"), (BEARER, f"Bearer {OTHER}")], "different"),
    ([(KEY_HEADER, SECRET), (KEY_HEADER, OTHER)], "different"),
    ([], "missing"),
    ([(BEARER, "")], "missing"),
    ([(BEARER, "Bearer")], "missing"),
    ([(BEARER, "Bearer ")], "missing"),
    ([(BEARER, SECRET)], "missing"),
    ([(BEARER, f"Basic {SECRET}")], "missing"),
    ([(BEARER, f"Token {SECRET}")], "missing"),
    ([(BEARER, f"Bearer\t{SECRET}")], "missing"),
    ([(BEARER, f"Bearer{SECRET}")], "missing"),
    ([(BEARER, f'Bearer "{SECRET}"')], "missing"),
    ([(BEARER, f"Bearer {SECRET}, Bearer {SECRET}")], "missing"),
    ([(BEARER, f"Bearer {SECRET} {SECRET}")], "missing"),
    ([(BEARER, f"Bearer {SECRET[:-1]}")], "missing"),
    ([(BEARER, f"Bearer {SECRET.upper()}")], "missing"),
    ([(BEARER, f"Bearer {digest_secret(SECRET)}")], "missing"),
    ([(BEARER, "Bearer kl\xc3\xa9-kl\xc3\xa9-kl\xc3\xa9-kl\xc3\xa9-kl\xc3\xa9")], "missing"),
    ([(BEARER, f"Bearer {SECRET}\x00")], "missing"),
    ([("Cookie", f"api_key={SECRET}"), ("Proxy-Authorization", f"Bearer {SECRET}")], "missing"),
]


@pytest.mark.parametrize(("headers", "outcome"), HEADERS)
def test_every_form_of_header(registry: Registry, headers: list[tuple[str, str]], outcome: str) -> None:
    """The table of docs/keys.md: one key, in one or both headers; anything else is 401 and says why."""
    keys = KeyGuard(registry, [("own", SECRET), ("other", OTHER)], None, always=False)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    context = RequestContext()
    if outcome == "own":
        check_caller(scope, keys, context, open_metrics=False)
        assert context.key is not None
        assert context.key.name == "own"
        return
    with pytest.raises(UnauthenticatedError, match=outcome) as caught:
        check_caller(scope, keys, context, open_metrics=False)
    assert caught.value.status == 401
    assert context.key is None
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("query", ["api_key", "api-key", "key", "access_token", "token"])
def test_a_key_in_the_address_is_not_read(registry: Registry, query: str) -> None:
    """Addresses end up in logs, so a key there counts for nothing, and takes nothing from one in a header."""
    keys = KeyGuard(registry, [("own", SECRET)], None, always=False)
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}
    scope["query_string"] = f"{query}={SECRET}".encode()
    with pytest.raises(UnauthenticatedError, match="missing"):
        check_caller(scope, keys, RequestContext(), open_metrics=False)
    scope["headers"] = [(b"authorization", f"Bearer {SECRET}".encode())]
    scope["query_string"] = f"{query}={OTHER}".encode()
    check_caller(scope, keys, RequestContext(), open_metrics=False)


@pytest.mark.parametrize(
    "secret", ["schlüssel-schlüssel-schlüssel", "with a space in the middle of it", "x" * 30 + "\n"]
)
def test_secrets_that_no_header_carries_are_refused(registry: Registry, secret: str) -> None:
    """A key that could never match is refused at the start, not at the first request."""
    with pytest.raises(ApiKeyError, match="printable ASCII") as caught:
        KeyGuard(registry, [("LORECALL_ADMIN_KEY", secret)], None, always=False)
    assert secret not in str(caught.value)


def test_a_server_that_had_a_key_never_opens_again(registry: Registry) -> None:
    """Revoking the last key locks everybody out; it does not let everybody in."""
    guard = KeyGuard(registry, (), None, always=False)
    key, secret = registry.keys.add("only", [Scope.ADMIN], actor="test")
    guard.reload()
    assert guard.authenticate([f"Bearer {secret}"]) is not None
    registry.keys.revoke(key.id, actor="test")
    guard.reload()
    with pytest.raises(UnauthenticatedError):
        guard.authenticate([])


def test_keys_that_nobody_can_read_do_not_open_the_server(registry: Registry) -> None:
    """Where a newer release made the only key, callers are turned away; they are not all let in."""
    key, _ = registry.keys.add("new", [Scope.ADMIN], actor="test")
    with registry.database.change() as session:
        session.execute(update(KeyRow).values(scopes=["teleport"]))
    with pytest.raises(UnauthenticatedError):
        KeyGuard(registry, (), None, always=False).authenticate([])
    registry.keys.revoke(key.id, actor="test")
    assert KeyGuard(registry, (), None, always=False).authenticate([]) is None


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
