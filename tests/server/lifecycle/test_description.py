"""What the control plane's JSON shows, and to whom."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.adapters.access.rate_limit import RateLimits
from lorecall.adapters.peft_format.companions import template_digest
from lorecall.adapters.registry.tables import State
from lorecall.server.auth.request_context import RequestContext, current, operates
from lorecall.server.lifecycle.description import describe, describe_page

SOURCE = "/srv/adapters/acme"


def plane() -> Any:
    """A control plane with one adapter, which came from a path of the server's own."""
    version = SimpleNamespace(
        name="acme",
        version="v",
        state=State.LIVE,
        reason="",
        audit_id="",
        rank=2,
        effective_parameters=10,
        refusal="it adapts lm_head",
        remarks=["a remark"],
        chat_template="{{ theirs }}",
        base_digest="",
        source=SOURCE,
        training=None,
        created_at=datetime.now(UTC),
        created_by="admin",
    )
    adapter = SimpleNamespace(name="acme", live_version="v", previous_version=None, pinned=False)
    registry = SimpleNamespace(adapter=lambda _: adapter, versions=lambda _: [version])
    staleness = SimpleNamespace(shown=lambda live: {name: [f"{live[name]} is old"] for name in live})
    return SimpleNamespace(
        registry=registry,
        engine_set=SimpleNamespace(live={}),
        level=lambda _: "disk",
        staleness=staleness,
        intake=SimpleNamespace(served=lambda record: record),
    )


@pytest.mark.parametrize(
    ("scopes", "shown", "operator"),
    [
        ({Scope.INFER, Scope.AUDIT}, None, False),
        ({Scope.ADAPTERS}, SOURCE, False),
        ({Scope.ADMIN}, SOURCE, True),
        (None, SOURCE, True),
    ],
)
def test_only_who_may_add_adapters_sees_where_one_came_from(
    scopes: set[Scope] | None, shown: str | None, *, operator: bool
) -> None:
    """A path of the server's own is no business of a key that only asks; the answer is made in a thread.

    Only a key with `admin`, or anybody on a server without keys, adds adapters as its operator.
    """

    async def ask() -> dict[str, Any]:
        key = None
        if scopes is not None:
            key = ApiKey("1", "k", "0" * 64, frozenset(scopes), ("*",), RateLimits(), None)
        current.set(RequestContext(key=key))
        assert operates() is operator
        return await asyncio.to_thread(describe, plane(), "acme")

    found = asyncio.run(ask())
    assert found["source"] == shown
    assert found["remarks"] == ["a remark"]
    assert found["stale"] == ["v is old"], "what its owner must know of"
    assert found["chat_template"] == template_digest("{{ theirs }}")
    assert SOURCE not in str({**found, "source": None})
    assert "theirs" not in str(found)


def test_whether_it_can_be_scored_is_said_of_this_engine() -> None:
    """The server that took it in may have been another one: what is loaded here decides."""
    here = plane()
    assert describe(here, "acme")["refusal"] == "it adapts lm_head"
    here.engine_set.live["acme"] = SimpleNamespace(version="v", info=SimpleNamespace(refusal=""), leases=())
    assert describe(here, "acme")["refusal"] == ""


def test_a_page_asks_for_all_its_verdicts_at_once() -> None:
    """One question for the live versions of the names that the caller sees; null where none is live."""
    fake = plane()
    names = {"acme": "v", "acme-new": None, "globex": "v"}
    listed = [
        SimpleNamespace(name=name, live_version=live, previous_version=None, pinned=False)
        for name, live in names.items()
    ]
    (version,) = fake.registry.versions("acme")
    fake.registry.adapters = lambda **_: listed
    fake.registry.versions_of = lambda asked: {name: [version] for name in asked}
    questions: list[dict[str, str | None]] = []

    def shown(live: dict[str, str | None]) -> dict[str, list[str] | None]:
        questions.append(live)
        return {name: [] if version else None for name, version in live.items()}

    fake.staleness.shown = shown

    async def ask() -> list[dict[str, Any]]:
        key = ApiKey("1", "k", "0" * 64, frozenset({Scope.INFER}), ("acme*",), RateLimits(), None)
        current.set(RequestContext(key=key))
        return (await asyncio.to_thread(describe_page, fake, "", 5))[0]

    assert [one["stale"] for one in asyncio.run(ask())] == [[], None]
    assert questions == [{"acme": "v", "acme-new": None}]
