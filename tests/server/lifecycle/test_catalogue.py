"""What a server does for thousands of registered adapters: few statements, whatever their number."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.registry.registry import Registry
from lorecall.server.bench.catalogue.filling import fill_registry, name_of, unmade
from lorecall.server.lifecycle.description import describe_page
from lorecall.server.lifecycle.follower import Follower
from lorecall.server.lifecycle.model_list import AdapterCards, adapter_card
from lorecall.server.lifecycle.residents import PAGE
from lorecall.server.observability.metrics import Metrics
from prometheus_client import CollectorRegistry
from sqlalchemy import event

from tests.server.lifecycle.recording import World

COUNT = 3 * PAGE + 4


@contextmanager
def counted(registry: Registry) -> Iterator[list[str]]:
    """The SQL statements of a block, without those that begin a transaction."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    event.listen(registry.database._engine, "before_cursor_execute", note)
    yield statements
    event.remove(registry.database._engine, "before_cursor_execute", note)


def test_a_start_and_its_pages_take_few_statements_and_an_idle_server_one_or_none(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are read at once, their versions by the page; a page of a list takes as many as a short list."""
    world = World(tmp_path)
    world.registry.close()
    world.registry = registry
    plane = world.server("one").plane
    monkeypatch.setattr(plane.engine_set, "capacity", plane.engine_set.capacity.__class__(0, 0, 1.0))
    fill_registry(registry, unmade(0, 2))
    with counted(registry) as short:
        assert len(describe_page(plane, "", 100)[0]) == 2
    fill_registry(registry, unmade(2, COUNT))
    follower = Follower(plane, Metrics(4, CollectorRegistry()), 1.0, lambda: None)
    with counted(registry) as start:
        asyncio.run(follower.catch_up())
    assert len(plane.live_versions()) == COUNT
    assert len(start) == 3 + (COUNT + PAGE - 1) // PAGE  # the revision, the names with theirs, then the pages
    with counted(registry) as page:
        found, more = describe_page(plane, name_of(99), 100)
    assert ([one["name"] for one in found], more) == ([name_of(n) for n in range(100, 200)], True)
    assert len(page) == len(short)
    with counted(registry) as idle:
        for _ in range(5):
            asyncio.run(follower.catch_up())
    assert len(idle) == (0 if registry.database._engine.dialect.name == "sqlite" else 5)
    assert all(one.startswith("SELECT") for one in idle)


@pytest.mark.parametrize("parent", ["base", "org/100%", 'a "base" %s'])
def test_a_card_is_vllms_own(parent: str) -> None:
    """Made quickly, it has the values that vLLM's class gives, but for its time and its permission's id."""
    names = [name_of(1), "A.b_c-1"]
    cards = AdapterCards(lambda _: parent).of(dict.fromkeys(names, "d" * 64))
    for name in names:
        found, own = json.loads(cards[name]), adapter_card(name, "d" * 64, parent).model_dump()
        assert found["created"] == found["permission"][0]["created"] > 0
        assert plain(found) == plain(own)
    ids = [json.loads(card)["permission"][0]["id"] for card in cards.values()]
    assert len(set(ids)) == 2
    assert all(one.startswith("modelperm-") for one in ids)


def plain(card: dict[str, Any]) -> dict[str, Any]:
    """A card without what differs between two of the same model."""
    (permission,) = card["permission"]
    fixed = {key: value for key, value in permission.items() if key not in ("id", "created")}
    return {**card, "created": 0, "permission": fixed}
