"""Which route needs what, and that an unnamed one is closed."""

import pytest
from lorecall.adapters.access.keys import Scope
from lorecall.server.auth.scopes import (
    ADAPTERS,
    ADMIN,
    ANY_KEY,
    AUDIT,
    AUDITS,
    INFER,
    OPEN,
    Need,
    adapter_of,
    need_of,
)


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/health", OPEN),
        ("GET", "/v1/models", ANY_KEY),
        ("POST", "/v1/chat/completions", INFER),
        ("POST", "/v1/completions", INFER),
        ("POST", "/invocations", INFER),
        ("POST", "/v1/score", AUDIT),
        ("GET", "/v1/adapters", ANY_KEY),
        ("POST", "/v1/adapters", ADAPTERS),
        ("DELETE", "/v1/adapters/a", ADAPTERS),
        ("POST", "/v1/load_lora_adapter", ADAPTERS),
        ("POST", "/adapters", ADAPTERS),
        ("DELETE", "/adapters/a", ADAPTERS),
        ("POST", "/v1/audits", AUDITS),
        ("POST", "/v1/audits/estimate", AUDITS),
        ("GET", "/v1/audits/a/report.html", AUDITS),
        ("GET", "/v1/audits/a/diff/b.html", AUDITS),
        ("DELETE", "/v1/audits/a", AUDITS),
        ("GET", "/v1/capacity", AUDITS),
        ("GET", "/audit/", OPEN),
        ("GET", "/audit/page.js", OPEN),
        ("GET", "/audit/../v1/keys", ADMIN),
        ("POST", "/v1/adapters/a/override", ADMIN),
        ("GET", "/v1/keys", ADMIN),
        ("GET", "/v1/keys/self", ANY_KEY),
        ("DELETE", "/v1/keys/self", ADMIN),
        ("GET", "/v1/events", ADAPTERS),
        ("GET", "/v1/models/org/name", ANY_KEY),
        ("POST", "/v1/models/org", ADMIN),
        ("GET", "/metrics", ADMIN),
        ("GET", "/load", ADMIN),
        ("GET", "/server_info", ADMIN),
        ("GET", "/tokenizer_info", ADMIN),
        ("GET", "/kv_event_sources", ADMIN),
        ("POST", "/reset_prefix_cache", ADMIN),
        ("GET", "/v1/responses/resp_of_another", ADMIN),
        ("POST", "/v1/responses/resp_of_another/cancel", ADMIN),
        ("GET", "/metricsabc", ADMIN),
        ("POST", "/pause", ADMIN),
        ("GET", "/v1/a-route-of-tomorrow", ADMIN),
        ("PUT", "/v1/completions", ADMIN),
    ],
)
def test_each_route_has_its_need(method: str, path: str, need: Need) -> None:
    """Routes are named one by one; what is not named needs admin."""
    assert need_of(method, path) == need


def test_metrics_open_only_when_told() -> None:
    """`/metrics` names adapters and `/load` counts others' requests: both need admin by default."""
    assert need_of("GET", "/metrics", open_metrics=True) is OPEN
    assert need_of("GET", "/load", open_metrics=True) is OPEN
    assert need_of("POST", "/load", open_metrics=True) == ADMIN
    assert need_of("GET", "/metricsabc", open_metrics=True) == ADMIN


def test_audit_keys_may_decode() -> None:
    """An audit decodes what it has scored, so its scope reaches generation."""
    assert INFER.scopes == {Scope.INFER, Scope.AUDIT}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/adapters/a", "a"),
        ("/v1/adapters/a/pin", "a"),
        ("/v1/adapters", None),
        ("/v1/models", None),
    ],
)
def test_the_adapter_of_a_path(path: str, name: str | None) -> None:
    """The control plane's paths name their adapter in the third place."""
    assert adapter_of(path) == name
