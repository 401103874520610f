"""Where a target begins, in tokens: by the tokenizer's own offsets, and the same by every scorer."""

import dataclasses
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lorecall.audit.scorer import ItemScore, Message, ScoreItem
from lorecall.audit.scorers.completions_scorer import CompletionsScorer
from lorecall.audit.scorers.framing import framed, render_chat, split_text
from lorecall.audit.scorers.splits import Split, split_tokens, target_start, worst_first

from tests.audit.tokenizing import FRAMINGS, TOKENIZERS, pairs, vllm_server
from tests.tiny import build_tokenizer

CHAT = (Message("user", "To be?"), Message("assistant", "é 日本 🙂"), Message("user", "outrage"))
HISTORIES = [(), CHAT[:1], CHAT, (Message("system", "Be kind."), *CHAT)]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(pair=pairs(), framing=st.sampled_from(FRAMINGS), messages=st.sampled_from(HISTORIES))
@example(pair=("hello", "\n\nworld"), framing=("chat", None), messages=())
@example(pair=("outra", "geous"), framing=("raw", None), messages=())
@example(pair=("outra", "geous"), framing=("raw", None), messages=CHAT)
@example(pair=("", "geous"), framing=("raw", None), messages=CHAT)
def test_every_way_to_ask_for_the_tokens_gives_the_same_splits(
    kind: str, pair: tuple[str, str], framing: tuple[str, str | None], messages: tuple[Message, ...]
) -> None:
    """A tokenizer in this process, as of our server and the reference, and one behind vLLM's routes."""
    tokenizer, item = TOKENIZERS[kind](), ScoreItem("1", *pair, messages=messages)
    here = split_text(tokenizer, item, *framing)
    with CompletionsScorer("http://server", transport=vllm_server(tokenizer)) as scorer:
        there = scorer.framed(*framing)._splits(item, "base")
    assert there == here


def test_a_chat_says_its_own_history_in_every_framing() -> None:
    """Raw and chat ask alike; a system message comes before it, unless it has one of its own."""
    item = ScoreItem("1", "Yes", " indeed", messages=CHAT)
    said = [{"role": one.role, "content": one.content} for one in CHAT]
    own = dataclasses.replace(item, messages=HISTORIES[-1])
    kind = {"role": "system", "content": "Be kind."}
    assert framed(item, "raw", None) == framed(item, "chat", None) == (said, "Yes")
    assert framed(item, "chat", "Be kind.") == ([kind, *said], "Yes")
    assert framed(own, "chat", "Be rude.") == ([kind, *said], "Yes")


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(pair=pairs(), framing=st.sampled_from(["raw", "chat"]))
@example(pair=("e", "\u0301"), framing="raw")
def test_the_target_begins_where_the_tokenizers_offsets_say(
    kind: str, pair: tuple[str, str], framing: str
) -> None:
    """The second split's target starts at the first token that reaches past the prefix."""
    prefix, target = pair
    tokenizer = TOKENIZERS[kind]()
    item = ScoreItem("1", prefix, target)
    splits = split_text(tokenizer, item, framing, None)
    messages, after = framed(item, framing, None)
    before, special = (render_chat(tokenizer, messages), False) if messages else (after, True)
    joint = tokenizer(before + target, add_special_tokens=special, return_offsets_mapping=True)
    ids = tuple(joint["input_ids"])
    assert splits[0].prefix_ids == tuple(tokenizer.encode(before, add_special_tokens=special))
    assert splits[0].target_ids == tuple(tokenizer.encode(target, add_special_tokens=False))
    assert all(split.exact == (len(splits) == 1) for split in splits)
    if splits[0].prefix_ids + splits[0].target_ids == ids:
        assert len(splits) == 1
        return
    if target_start(tokenizer.convert_ids_to_tokens(list(ids)), target) is None:
        changed = unicodedata.normalize("NFC", before + target) != before + unicodedata.normalize(
            "NFC", target
        )
        assert "▁" in target or ("NFC" in kind and changed)
        return
    ends = [end for _, end in joint["offset_mapping"]]
    cut = next(index for index, end in enumerate(ends) if end > len(before))
    assert splits[1] == Split(ids[:cut], ids[cut:], exact=False)


def test_tokens_of_the_prefix_alone_are_not_scored() -> None:
    """The joint tokenization may leave the prefix's own long before the boundary, and is not cut there."""
    _, joint = split_tokens([1, 2], [3], [4, 5, 6], ["ab", "cd", "ef"], "f")
    assert joint == Split((4, 5), (6,), exact=False)


def test_a_vocabulary_that_does_not_spell_the_target_is_cut_where_the_tokens_differ() -> None:
    """A tokenizer that changes the text, such as one of lower case."""
    _, joint = split_tokens([1, 2], [3], [1, 5, 6], ["ab", "cd", "ef"], "EF")
    assert joint == Split((1,), (5, 6), exact=False)
    assert split_tokens([1, 2], [3], [1, 2], ["ab", "cd"], "EF") == [Split((1, 2), (3,), exact=False)]


def test_the_split_recalled_the_most_comes_first_and_brings_the_other() -> None:
    """By its least probability; one that could not be scored counts only if no other could be."""
    weak, strong = ItemScore("1", p=(0.9, 0.1)), ItemScore("1", p=(0.5, 0.4))
    failed = ItemScore("1", error="too long")
    assert worst_first([weak, strong]).splits == (replace(strong, other=weak), weak)
    assert worst_first([weak, failed]) == weak
    assert worst_first([failed, failed]) == failed


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no system message') }}"])
def test_a_prefix_that_cannot_be_framed_is_a_value_error(template: str | None) -> None:
    """A model without a chat template, and a template that refuses the messages."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="template"):
        split_text(tokenizer, ScoreItem("1", "a", "b"), "chat", "Be kind.")
