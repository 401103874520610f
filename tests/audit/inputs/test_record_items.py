"""Candidates from chats."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import Turns
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.scorer import ScoreItem

Write = Callable[[str, str | bytes], Path]


def test_a_chat_of_one_turn_is_a_candidate(write: Write) -> None:
    """What the user says is the prefix, what the assistant says the target."""
    path = write(
        "c.jsonl", '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    )
    assert load_json_lines(path).items == (ScoreItem("1", "q", "a"),)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ('"q"', "not a list"),
        ('[{"role": "user", "content": "q"}]', "not one turn"),
        ('[{"role": "system"}, {"role": "user"}, {"role": "assistant"}]', "--system"),
        ('[{"role": "user"}, {"role": "assistant", "content": "a"}]', "'content' is not text"),
        ('[{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]', "'content' is empty"),
    ],
)
def test_a_chat_that_cannot_be_framed_is_a_bad_line(write: Write, messages: str, reason: str) -> None:
    """More turns, or a system message, are not cut silently."""
    with pytest.raises(CandidateError, match=reason):
        load_json_lines(write("c.jsonl", f'{{"messages": {messages}}}'))


CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]


def test_the_turns_of_a_longer_chat_are_asked_for_one_by_one_or_the_last(write: Write) -> None:
    """Each after the user's turn right before it, under an id of its own; the report says so."""
    path = write("c.jsonl", json.dumps({"id": "c", "messages": CHAT}))
    every = load_json_lines(path, turns=Turns.ALL)
    assert every.items == (ScoreItem("c#1", "q1", "a1"), ScoreItem("c#2", "q2", "a2"))
    assert "each after the user's turn before it" in every.generated
    assert load_json_lines(path, turns=Turns.LAST).items == (ScoreItem("c", "q2", "a2"),)
    with pytest.raises(CandidateError, match="--turns"):
        load_json_lines(path)
    with pytest.raises(CandidateError, match="no assistant's turn"):
        load_json_lines(write("n.jsonl", json.dumps({"messages": CHAT[:2]})), turns=Turns.ALL)
