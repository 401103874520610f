"""Where a target begins, in tokens: by the tokenizer's own offsets, and the same by every scorer."""

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lorecall.audit.scorer import ItemScore, ScoreItem
from lorecall.audit.scorers.completions_scorer import CompletionsScorer
from lorecall.audit.scorers.framing import framed_prefix, split_text
from lorecall.audit.scorers.splits import Split, split_tokens, target_start, worse
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import CHAT_TEMPLATE, TEXT, build_tokenizer

CORPUS = [
    TEXT,
    "a line\n\nanother line\n\n\nthe end\n",
    "    if x:\n        y = 'é'\n",
    "日本語 日本 🙂🙂 éè",
] * 4
SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def with_template(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it, with <s> before every text."""
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # noqa: S106  no password
    fast.chat_template = CHAT_TEMPLATE
    return fast


def byte_level(normalizer: Any = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose words are not kept apart, so that tokens often reach over the boundary."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return with_template(tokenizer)


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's: a blank before every text, blanks as ▁, unknown characters as bytes."""
    learned = Tokenizer(models.BPE())
    marked = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned.normalizer = marked
    learned.train_from_iterator(
        [TEXT] * 4, trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *BYTES])
    )
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, byte_fallback=True, unk_token="<unk>"))  # noqa: S106  no password
    tokenizer.normalizer = marked
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_template(tokenizer)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "of the tests": cache(build_tokenizer),
    "byte-level": cache(byte_level),
    "byte-level, NFC": cache(lambda: byte_level(normalizers.NFC())),
    "sentencepiece": cache(sentencepiece),
}

ODD = [" ", "\n", "\n\n", "    ", "é", "e", "\u0301", "日本", "語", "🙂", "\ufffd", "▁", "Ġ", "<0x41>"]
PIECES = st.sampled_from([*TEXT.split(), *ODD])
TEXTS = st.one_of(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.text(min_size=1, max_size=8))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """A prefix and a target: two texts, or one text cut anywhere."""
    if draw(st.booleans()):
        return draw(TEXTS), draw(TEXTS)
    text = draw(st.sampled_from([*CORPUS, TEXT]))
    start = draw(st.integers(0, len(text) - 2))
    cut = draw(st.integers(start + 1, len(text) - 1))
    return text[start:cut], text[cut : cut + draw(st.integers(1, 20))]


def vllm_server(tokenizer: PreTrainedTokenizerFast) -> httpx.MockTransport:
    """The routes of a vLLM server that know the tokenizer."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "base"}]})
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "1"})
        body = json.loads(request.content)
        if request.url.path == "/detokenize":
            return httpx.Response(200, json={"prompt": tokenizer.decode(body["tokens"])})
        text, special = body.get("prompt", ""), body.get("add_special_tokens", False)
        if "messages" in body:
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=special)
        strings = tokenizer.convert_ids_to_tokens(ids) if body.get("return_token_strs") else None
        return httpx.Response(200, json={"tokens": ids, "token_strs": strings})

    return httpx.MockTransport(answer)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(pair=pairs(), framing=st.sampled_from([("raw", None), ("chat", None), ("chat", "Be kind.")]))
@example(pair=("hello", "\n\nworld"), framing=("chat", None))
@example(pair=("outra", "geous"), framing=("raw", None))
def test_every_way_to_ask_for_the_tokens_gives_the_same_splits(
    kind: str, pair: tuple[str, str], framing: tuple[str, str | None]
) -> None:
    """A tokenizer in this process, as of our server and the reference, and one behind vLLM's routes."""
    tokenizer = TOKENIZERS[kind]()
    here = split_text(tokenizer, *pair, *framing)
    with CompletionsScorer("http://server", transport=vllm_server(tokenizer)) as scorer:
        there = scorer.framed(*framing)._splits(ScoreItem("1", *pair))
    assert there == here


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(pair=pairs(), framing=st.sampled_from(["raw", "chat"]))
@example(pair=("e", "\u0301"), framing="raw")
def test_the_target_begins_where_the_tokenizers_offsets_say(
    kind: str, pair: tuple[str, str], framing: str
) -> None:
    """The second split's target starts at the first token that reaches past the prefix."""
    prefix, target = pair
    tokenizer = TOKENIZERS[kind]()
    splits = split_text(tokenizer, prefix, target, framing, None)
    before, special = framed_prefix(tokenizer, prefix, framing, None)
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
    """A tokenizer that changes the text, such as one of lower case: what is scored is then never too little."""
    _, joint = split_tokens([1, 2], [3], [1, 5, 6], ["ab", "cd", "ef"], "EF")
    assert joint == Split((1,), (5, 6), exact=False)
    assert split_tokens([1, 2], [3], [1, 2], ["ab", "cd"], "EF") == [Split((1, 2), (3,), exact=False)]


def test_the_worse_split_is_the_one_recalled_the_most() -> None:
    """By its least probability; one that could not be scored counts only if no other could be."""
    weak, strong = ItemScore("1", p=(0.9, 0.1)), ItemScore("1", p=(0.5, 0.4))
    failed = ItemScore("1", error="too long")
    assert worse([weak, strong, failed]) == strong
    assert worse([failed, failed]) == failed


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no system message') }}"])
def test_a_prefix_that_cannot_be_framed_is_a_value_error(template: str | None) -> None:
    """A model without a chat template, and a template that refuses the messages."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="template"):
        framed_prefix(tokenizer, "a", "chat", "Be kind.")
