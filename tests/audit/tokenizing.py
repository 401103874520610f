"""Small tokenizers of several kinds, texts that are hard to split, and a vLLM server without a model."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
from hypothesis import strategies as st
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
FRAMINGS = [("raw", None), ("chat", None), ("chat", "Be kind.")]


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


def logprob(token: int) -> float:
    """The log-probability of a token, wherever it is: some tokens are likelier than others."""
    return -1.0 - token % 7


def vllm_server(tokenizer: PreTrainedTokenizerFast) -> httpx.MockTransport:
    """The routes of a vLLM server that an audit of its base needs; `logprob` says how likely each token is."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "base"}]})
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "1"})
        body = json.loads(request.content)
        if request.url.path == "/detokenize":
            return httpx.Response(200, json={"prompt": tokenizer.decode(body["tokens"])})
        if request.url.path == "/v1/completions":
            rows = [
                [{token: {"logprob": logprob(token), "rank": 1}} for token in ids] for ids in body["prompt"]
            ]
            choices = [{"index": index, "prompt_logprobs": row} for index, row in enumerate(rows)]
            return httpx.Response(200, json={"choices": choices})
        text, special = body.get("prompt", ""), body.get("add_special_tokens", False)
        if "messages" in body:
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=special)
        strings = tokenizer.convert_ids_to_tokens(ids) if body.get("return_token_strs") else None
        return httpx.Response(200, json={"tokens": ids, "token_strs": strings})

    return httpx.MockTransport(answer)
