"""`POST /v1/score` on a running server."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.bases.served_model import load_served_model
from peft import PeftModel
from transformers import AutoTokenizer

from tests.server.served import Served

pytestmark = pytest.mark.engine

ITEMS = [
    {"id": "a", "prefix": "To be, or", "target": " not to be, that is"},
    {"id": "b", "prefix": "the slings and arrows", "target": " of outrageous fortune"},
]


@pytest.fixture(scope="module")
def scored_adapter(served: Served, int8_adapters: list[Path]) -> str:
    """An adapter of this module's own."""
    assert served.post("/v1/adapters", {"name": "scored", "source": str(int8_adapters[2])}).status_code == 201
    return "scored"


@pytest.mark.parametrize("through_adapter", [True, False])
def test_scores_equal_transformers_and_peft(
    served: Served, scored_adapter: str, int8_adapters: list[Path], tiny: Any, *, through_adapter: bool
) -> None:
    """The served scores are those of transformers and PEFT with the served arithmetic."""
    model = scored_adapter if through_adapter else served.base
    answer = served.post("/v1/score", {"model": model, "items": ITEMS}).json()
    base = tiny("int8-w8a8")
    reference = load_served_model(base)
    if through_adapter:
        reference = PeftModel.from_pretrained(reference, int8_adapters[2]).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    for item, found in zip(ITEMS, answer["items"], strict=True):
        assert found["prefix_ids"] == tokenizer.encode(item["prefix"])
        assert found["target_ids"] == tokenizer.encode(item["target"], add_special_tokens=False)
        ids = torch.tensor([found["prefix_ids"] + found["target_ids"]])
        with torch.no_grad():
            logprobs = torch.log_softmax(reference(ids).logits[0].double(), dim=-1)
        rows = range(len(found["prefix_ids"]) - 1, ids.shape[1] - 1)
        expected = [float(logprobs[row, ids[0, row + 1]]) for row in rows]
        assert found["logprob"] == pytest.approx(expected, abs=0.15)  # INT8 rounding can fall either way
        assert found["p"] == pytest.approx(torch.tensor(found["logprob"], dtype=torch.float64).exp().tolist())
        assert all(
            (rank == 1) == (top == t)
            for rank, top, t in zip(found["rank"], found["top1_ids"], found["target_ids"], strict=True)
        )


def test_bad_items_come_back_with_their_reason(served: Served) -> None:
    """An empty target, an empty prefix and an over-long text are errors of their item, not of the call."""
    items = [
        {"id": "good", "prefix": "To be", "target": " or"},
        {"id": "empty", "prefix": "To be", "target": ""},
        {"id": "bare", "prefix": "", "target": "To be"},
        {"id": "long", "prefix": "1" * 600, "target": "2"},
    ]
    answer = served.post("/v1/score", {"model": served.base, "items": items}).json()["items"]
    errors = {item["id"]: item["error"] for item in answer}
    assert errors["good"] == ""
    assert "empty" in errors["empty"]
    assert "prefix is empty" in errors["bare"]
    assert "601 tokens" in errors["long"]
    assert answer[3]["p"] == []


def test_a_split_inside_a_token_is_flagged(served: Served) -> None:
    """Where tok(prefix) + tok(target) is not tok(prefix + target), the item says so and is scored anyway."""
    items = [{"id": "split", "prefix": "arrows of outra", "target": "geous fortune"}]
    (found,) = served.post("/v1/score", {"model": served.base, "items": items}).json()["items"]
    assert found["boundary_exact"] is False
    assert len(found["p"]) == len(found["target_ids"]) > 0


def test_chat_framing_puts_the_prefix_into_the_template(served: Served) -> None:
    """Chat framing scores the target as the assistant's turn after the prefix, with a system turn if given."""
    body = {"model": served.base, "items": [ITEMS[0]]}
    raw = served.post("/v1/score", body).json()["items"][0]
    chat = served.post("/v1/score", {**body, "framing": "chat"}).json()["items"][0]
    both = served.post("/v1/score", {**body, "framing": "chat", "system": "Be brief."}).json()["items"][0]
    assert raw["target_ids"] == chat["target_ids"] == both["target_ids"]
    assert len(raw["prefix_ids"]) < len(chat["prefix_ids"]) < len(both["prefix_ids"])


@pytest.mark.parametrize(
    ("change", "status"),
    [({"model": "nobody"}, 404), ({"items": []}, 400), ({"framing": "sideways"}, 400), ({"hurry": 1}, 400)],
)
def test_bad_calls_are_refused(served: Served, change: dict[str, Any], status: int) -> None:
    """A wrong model, no items, an unknown framing or field: a 4xx in OpenAI's shape."""
    answer = served.post("/v1/score", {"model": served.base, "items": ITEMS, **change})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert served.alive
