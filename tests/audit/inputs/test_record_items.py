"""Candidates from chats."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import Turns
from lorecall.audit.inputs.item_store import ItemStore
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.scorer import Message, ScoreItem

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
        (json.dumps([{"role": r, "content": "a"} for r in ("system", "user", "assistant")]), "--system"),
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
    """Each after all that was said before it, under an id of its own; the report says so."""
    said = tuple(Message(one["role"], one["content"]) for one in CHAT)
    path = write("c.jsonl", json.dumps({"id": "c", "messages": CHAT}))
    every = load_json_lines(path, turns=Turns.ALL)
    assert every.items == (
        ScoreItem("c#1", "", "a1", messages=said[:2]),
        ScoreItem("c#2", "", "a2", messages=said[:4]),
    )
    assert "after all that was said before it" in every.generated
    last = load_json_lines(path, turns=Turns.LAST).items
    assert last == (ScoreItem("c", "", "a2", messages=said[:4]),)
    with pytest.raises(CandidateError, match="--turns"):
        load_json_lines(path)
    with pytest.raises(CandidateError, match="no assistant's turn"):
        load_json_lines(write("n.jsonl", json.dumps({"messages": CHAT[:2]})), turns=Turns.ALL)


@pytest.mark.parametrize(("value", "cluster"), [('"a1"', "a1"), ("17", "17"), ('""', "")])
def test_the_cluster_is_read(write: Write, value: str, cluster: str) -> None:
    """By a name or a number, in memory and on disk, and written again as it was."""
    item = load_json_lines(write("c.jsonl", f'{{"prefix": "p", "target": "t", "cluster": {value}}}')).items[0]
    assert item.cluster == cluster
    assert item.record.get("cluster", "") == cluster
    store = ItemStore()
    store.add(item, 1)
    assert store[0] == item


@pytest.mark.parametrize("value", ["1.5", "true", "[1]", f'"{"c" * 41}"'])
def test_what_names_no_cluster_is_refused(write: Write, value: str) -> None:
    """Without a word of it."""
    with pytest.raises(CandidateError, match="'cluster' is neither"):
        load_json_lines(write("c.jsonl", f'{{"prefix": "p", "target": "t", "cluster": {value}}}'))


@pytest.mark.parametrize(
    ("fields", "tags"),
    [
        ('"tags": ["pii", "key", "pii"]', ("key", "pii")),
        ('"tag": "a/b:c.d_e-9"', ("a/b:c.d_e-9",)),
        ('"tag": "key", "tags": ["pii"]', ("key", "pii")),
        ('"tags": []', ()),
    ],
)
def test_tags_are_read(write: Write, fields: str, tags: tuple[str, ...]) -> None:
    """One or several, under either name, sorted and each once; a chat's turns have those of the chat."""
    assert (
        load_json_lines(write("c.jsonl", f'{{"prefix": "p", "target": "t", {fields}}}')).items[0].tags == tags
    )
    chat = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    path = write("d.jsonl", f'{{"messages": {chat}, {fields}}}')
    assert load_json_lines(path, turns=Turns.ALL).items[0].tags == tags


@pytest.mark.parametrize(
    "fields",
    [
        '"tags": "pii"',
        '"tags": null',
        '"tags": [1]',
        '"tag": ""',
        '"tag": "Jane Doe"',
        '"tag": "-x"',
        f'"tag": "{"x" * 41}"',
        f'"tags": {json.dumps([f"t{i}" for i in range(9)])}',
    ],
)
def test_what_could_be_a_text_is_no_tag(write: Write, fields: str) -> None:
    """Tags stand in reports in clear, so they are short words; the message does not quote one that is not."""
    with pytest.raises(CandidateError, match="'tags'") as caught:
        load_json_lines(write("c.jsonl", f'{{"prefix": "p", "target": "t", {fields}}}'))
    assert "Jane" not in str(caught.value)


def test_a_tag_for_each_candidate_is_refused(write: Write) -> None:
    """An id in place of a tag would fill the report."""
    lines = [json.dumps({"prefix": "p", "target": "t", "tag": f"t{i}"}) for i in range(65)]
    assert len(load_json_lines(write("few.jsonl", "\n".join(lines[:64]))).items) == 64
    with pytest.raises(CandidateError, match="more than 64 different tags up to line 65"):
        load_json_lines(write("many.jsonl", "\n".join(lines)))


def test_an_empty_answer_is_part_of_the_history_and_not_asked_for(write: Write) -> None:
    """Such as the call of a tool; the answer after it is."""
    chat = [*CHAT[:2], {"role": "assistant", "content": ""}, {"role": "tool", "content": "7"}, CHAT[4]]
    (item,) = load_json_lines(write("c.jsonl", json.dumps({"messages": chat})), turns=Turns.ALL).items
    assert [message.role for message in item.messages] == ["system", "user", "assistant", "tool"]


def test_messages_beside_a_target_are_its_history(write: Write) -> None:
    """What our own reports and tools write comes back as it was."""
    said = tuple(Message(one["role"], one["content"]) for one in CHAT[:2])
    items = (ScoreItem("1", "Well, ", "a1", messages=said), ScoreItem("2", "", "a1", messages=said))
    lines = "\n".join(json.dumps(item.fields) for item in items)
    assert load_json_lines(write("c.jsonl", lines)).items == items


def test_an_unknown_role_is_a_bad_line(write: Write) -> None:
    """Chat templates differ in what they make of one."""
    with pytest.raises(CandidateError, match="role is none of"):
        load_json_lines(write("c.jsonl", '{"messages": [{"role": "bot", "content": "a"}], "target": "b"}'))
