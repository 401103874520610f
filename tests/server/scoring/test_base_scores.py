"""What a server remembers of the base's scores, and for whom."""

import asyncio
from typing import Any

import pytest
from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.audit.scorer import ItemScore, Sampling, ScoreItem
from lorecall.audit.scorers.splits import Split
from lorecall.server.auth.request_context import RequestContext, current
from lorecall.server.scoring.base_scores import BaseScores, key_of
from lorecall.server.scoring.score import EngineScoring

from tests.audit.tokenizing import TOKENIZERS
from tests.server.scoring.test_score import Client

ITEM = ScoreItem("1", "to be", " or not")
ROWS = [(-0.5, 1.0, 7.0, -0.5, -0.25), (-2.0, 3.0, 8.0, -1.0, float("-inf"))]


class Counting(Client):
    """A client that counts what it is asked."""

    asked = 0

    def generate(self, prompt: dict[str, list[int]], *args: Any, **more: Any) -> Any:
        """The same answers."""
        self.asked += 1
        return super().generate(prompt, *args, **more)


def scored(scoring: EngineScoring, context: RequestContext | None, lora: Any = None) -> ItemScore:
    """The item's scores, asked for in a request of that context."""

    async def ask() -> ItemScore:
        current.set(context)
        return (await scoring.score([ITEM], lora, "raw", None))[0]

    return asyncio.run(ask())


@pytest.fixture
def counting() -> tuple[Any, EngineScoring]:
    """A client and the scoring through it."""
    client: Any = Counting(TOKENIZERS["byte-level"]())
    return client, EngineScoring(client, fixed_token_scores=False, by_priority=False)


def key(name: str, digest: str) -> RequestContext:
    """A request of a key."""
    return RequestContext(ApiKey(name, name, digest, frozenset({Scope.AUDIT})))


def test_the_base_is_asked_once_and_an_adapter_each_time(counting: tuple[Any, EngineScoring]) -> None:
    """Both answers are the same."""
    client, scoring = counting
    first = scored(scoring, RequestContext())
    once = client.asked
    assert scored(scoring, RequestContext()) == first
    assert client.asked == once
    scored(scoring, RequestContext(), lora="an adapter")
    scored(scoring, RequestContext(), lora="an adapter")
    assert client.asked == 3 * once


def test_no_key_learns_by_speed_what_another_asked(counting: tuple[Any, EngineScoring]) -> None:
    """Each key has the base asked for itself; the server's own audits, outside a request, always do."""
    client, scoring = counting
    contexts = [key("a", "aa"), key("b", "bb"), RequestContext()]
    for context in contexts:
        before = client.asked
        scored(scoring, context)
        assert client.asked > before
    once = client.asked
    for context in contexts:
        scored(scoring, context)
    assert client.asked == once
    scored(scoring, None)
    assert client.asked > once


def test_rows_come_back_as_they_were_and_the_longest_unused_are_forgotten() -> None:
    """Four rows have room: of three texts with two each, the one that was not asked for again goes."""
    kept = BaseScores(most=4)
    kept.put(b"a", ROWS)
    kept.put(b"b", ROWS)
    assert kept.get(b"a") == ROWS
    kept.put(b"c", ROWS)
    assert kept.get(b"b") is None
    assert kept.get(b"a") == kept.get(b"c") == ROWS
    kept.put(b"c", ROWS)  # again: it takes no more room
    assert kept.get(b"a") == ROWS


def test_without_room_nothing_is_remembered() -> None:
    """As on a server without a prefix cache."""
    kept = BaseScores(most=0)
    kept.put(b"a", ROWS)
    assert kept.get(b"a") is None


def test_a_text_in_another_split_or_under_another_scheme_is_another() -> None:
    """The keys differ, and say nothing of the text."""
    token = current.set(RequestContext())
    try:
        asked = [
            (Split((1, 2), (3,)), None),
            (Split((1,), (2, 3)), None),
            (Split((1, 2), (3,)), Sampling(0.7)),
            (Split((1, 2), (3,)), Sampling(0.8)),
        ]
        found = [key_of(*one) for one in asked]
    finally:
        current.reset(token)
    assert len(set(found)) == len(asked)
    assert all(one is not None and len(one) == 32 for one in found)
