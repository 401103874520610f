"""What a key may do and see, and how keys are read from a file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.access.keys import (
    ApiKey,
    ApiKeyError,
    KeyRing,
    Scope,
    digest_secret,
    key_from_secret,
    new_secret,
    read_key_file,
)
from lorecall.adapters.access.rate_limit import RateLimits
from lorecall.adapters.access.source_list import SourceList

DIGEST = digest_secret("a secret of some length")


def key(*scopes: Scope, patterns: tuple[str, ...] = ("*",)) -> ApiKey:
    return ApiKey(id="1", name="one", digest=DIGEST, scopes=frozenset(scopes), patterns=patterns)


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_is_only_itself_and_admin_is_all(scope: Scope) -> None:
    """A key has the scopes that it was given and no other; admin has all."""
    expected = list(Scope) if scope is Scope.ADMIN else [scope]
    assert [other for other in Scope if key(scope).may(other)] == expected


def test_patterns_decide_what_exists() -> None:
    """A key may use the models that match one of its patterns, case-sensitively, and no others."""
    tenant = key(Scope.INFER, patterns=("acme-*", "shared", "v?"))
    assert all(map(tenant.sees, ("acme-support", "acme-", "shared", "v1")))
    assert not any(map(tenant.sees, ("acme", "ACME-x", "shared2", "other-acme-x", "v", "v12", "")))


def test_names_with_a_slash() -> None:
    """A base is often named as on a hub or by its path; `*` matches the slash too."""
    tenant = key(Scope.INFER, patterns=("org/model", "team/*", "/data/base:v1"))
    assert all(map(tenant.sees, ("org/model", "team/a", "team/a/b", "/data/base:v1")))
    assert not any(map(tenant.sees, ("model", "org", "org/model2", "x/org/model", "team", "data/base:v1")))


@given(name=st.from_regex(r"[A-Za-z0-9/][A-Za-z0-9._/:@+-]{0,40}", fullmatch=True))
def test_a_plain_pattern_matches_only_itself(name: str) -> None:
    """No character of an adapter's name is special in a pattern."""
    tenant = key(Scope.INFER, patterns=(name,))
    assert tenant.sees(name)
    assert not tenant.sees(name + "x")
    assert not tenant.sees("x" + name)


@pytest.mark.parametrize("pattern", ["", "a\\b", "[a-z]*", "x" * 129, "a b", "\u0430", "a\n"])
def test_bad_patterns(pattern: str) -> None:
    """Patterns are made of the characters of names, `*` and `?`."""
    with pytest.raises(ApiKeyError, match="pattern"):
        key(Scope.INFER, patterns=(pattern,))


def test_ring_finds_by_secret_only() -> None:
    """Neither a digest, nor a part of a secret, nor strange input authenticates."""
    secret = new_secret()
    known = key_from_secret(secret)
    ring = KeyRing([known])
    assert ring.authenticate(secret) == known
    for wrong in ("", known.digest, secret[:-1], secret + " ", secret.upper(), "\ud800", "\x00"):
        assert ring.authenticate(wrong) is None
    assert len(KeyRing([known, known])) == 1


def test_short_secrets_are_refused() -> None:
    """A secret that is short enough to be guessed is refused."""
    with pytest.raises(ApiKeyError, match="has 8 characters"):
        key_from_secret("password")


def test_key_file(tmp_path: Path) -> None:
    """Keys in YAML, with digests in place of secrets."""
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"- {{name: acme, sha256: {DIGEST}, scopes: [infer, audit], adapters: ['acme-*'],"
        " limits: {requests_per_minute: 60}, expires: 2027-01-31T00:00:00Z}\n"
        f"- {{name: root, sha256: {'f' * 64}, scopes: [admin]}}\n"
    )
    acme, root = read_key_file(path)
    assert acme.scopes == {Scope.INFER, Scope.AUDIT}
    assert acme.limits == RateLimits(requests_per_minute=60)
    assert acme.expires_at is not None
    assert acme.expires_at.isoformat() == "2027-01-31T00:00:00+00:00"
    assert KeyRing([acme, root]).authenticate("a secret of some length") == acme
    assert root.sees("anything")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: acme", "no list"),
        ("- [1, 2]", "entry 1"),
        ("- {name: a, key: in-the-clear, scopes: [infer]}", "a secret may not"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], secret: x}}", "right fields"),
        ("- {name: a, sha256: abc, scopes: [infer]}", "sha256"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [fly]}}", "fly"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: infer}}", "malformed"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: []}}", "no scope"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], limits: {{requests: 1}}}}", "limits"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], limits: {{concurrent: 0}}}}", "limits"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], limits: {{concurrent: many}}}}", "limits"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], expires: soon}}", "expires"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], sources: hf://acme}}", "malformed"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], sources: ['hf://acme*']}}", "no prefix"),
        (f"- {{name: a, sha256: {DIGEST}, scopes: [infer], sources: ['https://x/']}}", "not read from https"),
        (f"- &a {{name: a, sha256: {DIGEST}, scopes: [infer]}}\n- *a", "twice"),
        ("- {name: !!python/object/apply:os.system [true]}", "cannot be read"),
        ("- {", "cannot be read"),
    ],
)
def test_wrong_key_files(text: str, complaint: str, tmp_path: Path) -> None:
    """One wrong entry refuses the whole file, and the error says where and how."""
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ApiKeyError, match=complaint):
        read_key_file(path)


def test_sources_of_a_key_file(tmp_path: Path) -> None:
    """A key may have a list of sources; an empty one allows uploads only, and none at all sets no limit."""
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"- {{name: a, sha256: {'a' * 64}, scopes: [adapters], sources: ['hf://acme/*', /srv/acme]}}\n"
        f"- {{name: b, sha256: {'b' * 64}, scopes: [adapters], sources: []}}\n"
        f"- {{name: c, sha256: {'c' * 64}, scopes: [adapters]}}\n"
    )
    lists = [key.sources for key in read_key_file(path)]
    assert lists == [SourceList(("hf://acme/*", "/srv/acme")), SourceList(()), None]


def test_missing_key_file(tmp_path: Path) -> None:
    """A file that is not there is an error, not an empty set of keys."""
    with pytest.raises(ApiKeyError, match="cannot be read"):
        read_key_file(tmp_path / "none.yaml")
