"""Who may call a route, beside what the key's scopes say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.access.keys import Scope
from lorecall.adapters.registry.registry import Registry
from lorecall.server.auth.keyring import KeyGuard
from lorecall.server.auth.middleware import check_caller
from lorecall.server.auth.request_context import ForbiddenError, RequestContext


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    yield opened
    opened.close()


def call(guard: KeyGuard, method: str, path: str, **headers: str) -> None:
    """Check one request."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    check_caller(scope, guard, RequestContext(), open_metrics=False)


STEPS = [
    ("POST", "/v1/audits"),
    ("POST", "/v1/audits/a/cancel"),
    ("GET", "/v1/audits"),
    ("POST", "/v1/adapters/acme/rollback"),
    ("POST", "/v1/adapters/acme/archive"),
    ("DELETE", "/v1/adapters/acme"),
    ("POST", "/v1/keys"),
]


@pytest.mark.parametrize(("method", "path"), STEPS)
def test_no_other_site_acts_through_a_visitors_browser(registry: Registry, method: str, path: str) -> None:
    """A server without keys trusts whoever reaches it, and a browser there would ask it for any page it shows."""
    guard = KeyGuard(registry, (), None, always=False)
    with pytest.raises(ForbiddenError, match="a page of another site"):
        call(guard, method, path, sec_fetch_site="cross-site")
    for site in ("same-origin", "same-site", "none"):
        call(guard, method, path, sec_fetch_site=site)
    call(guard, method, path)
    secret = registry.keys.add("ann", [Scope.ADMIN], actor="ann")[1]
    guard.reload()
    call(guard, method, path, sec_fetch_site="cross-site", authorization=f"Bearer {secret}")


def test_other_sites_may_still_ask_models_and_open_the_page(registry: Registry) -> None:
    """As vLLM lets them; a link to the page is one from another site, too."""
    guard = KeyGuard(registry, (), None, always=False)
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/audit/")):
        call(guard, method, path, sec_fetch_site="cross-site")
