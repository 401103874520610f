"""API keys in the registry: the secret is shown once and stored nowhere."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lorecall.adapters.access.keys import ApiKeyError, KeyRing, Scope
from lorecall.adapters.access.rate_limit import RateLimits
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.registry.api_keys import KeyNotFoundError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.registry.tables import KeyRow
from sqlalchemy import update


def test_key_is_made_used_and_revoked(registry: Registry) -> None:
    """A key comes back as it was made, works by its secret, and ends at once when revoked."""
    ends = datetime(2027, 1, 31, tzinfo=UTC)
    limits = RateLimits(requests_per_minute=60, tokens_per_minute=9000.5, concurrent=4)
    key, secret = registry.keys.add(
        "acme", [Scope.INFER, Scope.AUDIT], actor="root", patterns=["acme-*"], limits=limits, expires_at=ends
    )
    other, _ = registry.keys.add("root", [Scope.ADMIN], actor="root")
    assert registry.keys.active() == (key, other)
    ring = KeyRing(registry.keys.active())
    assert ring.authenticate(secret) == key
    assert ring.authenticate(secret, ends) is None
    assert ring.authenticate(secret, ends - timedelta(seconds=1)) == key
    assert ring.authenticate(secret + "x") is None
    before = registry.revision()
    registry.keys.revoke(key.id, actor="root")
    assert registry.revision() > before, "servers notice by the revision"
    assert registry.keys.active() == (other,)
    registry.keys.revoke(key.id, actor="root")
    assert [event.action for event in registry.events()] == ["add-key", "add-key", "revoke-key"]


@pytest.mark.parametrize("sources", [None, SourceList(()), SourceList(("hf://acme/*", "s3://bucket/acme/"))])
def test_the_sources_of_a_key_are_kept(registry: Registry, sources: SourceList | None) -> None:
    """No list, an empty one and a list are three things."""
    key, _ = registry.keys.add("acme", [Scope.ADAPTERS], actor="root", sources=sources)
    assert registry.keys.active() == (key,)
    assert registry.keys.active()[0].sources == sources


def test_secret_is_stored_nowhere(tmp_path: Path) -> None:
    """No byte sequence of the secret is in the database's files, nor in the key's representation."""
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    key, secret = registry.keys.add("acme", [Scope.INFER], actor="root")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.digest.encode() in content
    assert secret.removeprefix("lorecall-").encode() not in content
    assert secret not in repr(key)
    registry.close()


def test_secrets_are_never_alike(registry: Registry) -> None:
    """Each key gets a secret of its own, also under the same name."""
    made = [registry.keys.add("same", [Scope.INFER], actor="root") for _ in range(20)]
    assert len({secret for _, secret in made}) == 20
    assert len({key.id for key, _ in made}) == 20


def test_wrong_keys_are_not_made(registry: Registry) -> None:
    """A bad pattern or no scope makes no key; an unknown key cannot be revoked."""
    with pytest.raises(ApiKeyError, match="pattern"):
        registry.keys.add("acme", [Scope.INFER], actor="root", patterns=["acme/[a-z]"])
    with pytest.raises(ApiKeyError, match="no scope"):
        registry.keys.add("acme", [], actor="root")
    with pytest.raises(KeyNotFoundError):
        registry.keys.revoke("0" * 32, actor="root")
    assert registry.keys.active() == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scopes", ["infer", "teleport"]),
        ("scopes", {"infer": 1.5}),
        ("scopes", None),
        ("limits", {"requests_per_century": 1}),
        ("limits", [1]),
        ("patterns", ["a/[z]"]),
        ("patterns", [7]),
    ],
)
def test_a_key_of_a_newer_release_stops_no_other(
    registry: Registry, field: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not work here and is named in the log, once; the others go on, and it can be revoked."""
    new, secret = registry.keys.add("from the future", [Scope.INFER], actor="root")
    other, _ = registry.keys.add("other", [Scope.ADMIN], actor="root")
    with registry.database.change() as session:
        session.execute(update(KeyRow).where(KeyRow.id == new.id).values({field: value}))
    for _ in range(3):
        assert registry.keys.active() == (other,)
    assert KeyRing(registry.keys.active()).authenticate(secret) is None
    (logged,) = caplog.records
    assert logged.levelname == "ERROR"
    assert new.id in logged.getMessage()
    assert "from the future" in logged.getMessage()
    assert registry.keys.exist()
    registry.keys.revoke(new.id, actor="root")
    registry.keys.revoke(other.id, actor="root")
    assert not registry.keys.exist()
