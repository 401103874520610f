"""Long answers are made beside the loop, and are what the framework would send."""

import asyncio
import json
import threading
from typing import Any

import pytest
from fastapi.responses import JSONResponse
from lorecall.audit.scorer import ItemScore
from lorecall.server.http import long_answers
from lorecall.server.http.long_answers import encoded, long_answer


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"a": []},
        {"a": [1, {"b": [None, "é 日本 \u2028"]}], "c": {"d": [1.5]}, "e": '"\\', "f": True},
        {"snippets": ({"x": 1}, {"x": 2}), "n": 3},
    ],
)
def test_the_bytes_are_those_of_the_framework(body: dict[str, Any]) -> None:
    """Whatever the object holds."""
    assert encoded(body) == JSONResponse(body).body


def test_scores_become_objects_and_what_is_no_json_is_refused() -> None:
    """A score within a score, too; a value that is not finite is no JSON."""
    inner = ItemScore("1", (1,), (2,), (0.5,), (-0.69,), (1,), (2,), (0.5,), sampled=(None,))
    (found,) = json.loads(encoded({"items": [ItemScore("1", other=inner)]}))["items"]
    assert found["other"]["sampled"] == [None]
    assert found["other"]["other"] is None
    assert found.keys() == set(ItemScore.__dataclass_fields__)
    with pytest.raises(ValueError, match="JSON"):
        encoded({"items": [float("nan")]})
    with pytest.raises(TypeError, match="object is no JSON"):
        encoded({"items": [object()]})


def test_the_loop_answers_while_a_long_answer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoding ends only after a task of the loop had its turn."""
    answered = threading.Event()

    def waiting(value: Any) -> str:
        assert answered.wait(60), "the loop had no turn"
        return json.dumps(value)

    async def health() -> None:
        answered.set()

    async def main() -> bytes:
        making = asyncio.create_task(long_answer({"a": [1, 2]}))
        asked = asyncio.create_task(health())  # it comes after, and must not wait for it
        answer, _ = await asyncio.gather(making, asked)
        return bytes(answer.body)

    monkeypatch.setattr(long_answers, "_text", waiting)
    assert json.loads(asyncio.run(main())) == {"a": [1, 2]}
