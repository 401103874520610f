"""A `Scorer` over any server of vLLM's OpenAI API, for adapters that are served without lorecall.

It needs `/v1/models`, `/tokenize`, `/detokenize` and `/v1/completions` with `prompt_logprobs`. Of an adapter such
a server tells only the name: give its PEFT folder, so that rank, version and a trained lm_head are known. Whether
it has a chat template of its own there is seen from what the server makes of two chats. The server's ε is not
known either; the audit measures it.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import AdapterNotFoundError, ScorerError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.audit.scorer import AdapterVersion, EngineInfo, ItemScore, ScoreItem
from lorecall.audit.scorers.batches import batches
from lorecall.audit.scorers.framing import Chat, framed
from lorecall.audit.scorers.http_client import RequestRefusedError, broken, read_json
from lorecall.audit.scorers.http_scorer import GREEDY, HttpScorer, parse
from lorecall.audit.scorers.prompt_logprobs import read_rows, split_error
from lorecall.audit.scorers.splits import Split, split_tokens, worst_first
from pydantic import BaseModel

REFUSED = "the text cannot be framed: the server refuses the messages"
CHATS: tuple[Chat, ...] = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
)
"""Two chats that tell a chat template from another."""


class _Model(BaseModel):
    id: str
    parent: str | None = None
    max_model_len: int | None = None


class _Logprob(BaseModel):
    logprob: float
    rank: int | None = None


class _Tokens(BaseModel):
    tokens: list[int]
    token_strs: list[str] | None = None


Row = dict[int, _Logprob] | None


class _Scored(BaseModel):
    index: int
    prompt_logprobs: list[Row]


class CompletionsScorer(HttpScorer):
    """Scores through `POST /v1/completions` with `prompt_logprobs`.

    Args:
        server: Base URL of the server, with or without `/v1`.
        folders: The PEFT folder of each adapter, where it is known.
        options: As for `HttpScorer`.
    """

    def __init__(self, server: str, folders: dict[str, Path] | None = None, **options: Any) -> None:
        super().__init__(server, **options)
        self._folders = folders or {}
        self._models: list[_Model] | None = None

    def info(self) -> EngineInfo:
        """Return the engine's version and the base: the first model that has no parent.

        Raises:
            ScorerError: There is none, or another engine or base than before answers.
        """
        self._models = None
        base = next((model for model in self._list() if model.parent is None), None)
        if base is None:
            raise broken("/v1/models", "no model without a parent")
        response = self.client.send("GET", "/version")
        version = response.json().get("version", "") if response.is_success else ""
        return self._same(EngineInfo(engine=f"vllm {version}".strip(), base=base.id))

    def adapter(self, name: str) -> AdapterVersion:
        """Return what the adapter's folder holds; without one, its version and rank stay unknown."""
        if name not in self.adapter_names():
            known = ", ".join(self.adapter_names()) or "none"
            raise AdapterNotFoundError(
                f"no adapter {name!r} on {self.client.server}", hint=f"it has: {known}", param="adapter"
            )
        template = self._own_template(name)
        if name not in self._folders:
            return AdapterVersion(name, version="", rank=0, effective_parameters=0, chat_template=template)
        return replace(AdapterVersion.of(name, read_adapter(self._folders[name])), chat_template=template)

    def _own_template(self, name: str) -> str:
        """Return sha256 (hex) over what an adapter's own chat template makes of `CHATS`; "" for the base's."""
        own = [self._rendered(name, chat) for chat in CHATS]
        if own == [self._rendered(self._base(), chat) for chat in CHATS]:
            return ""
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()

    def adapter_names(self) -> list[str]:
        """Return the names of all models that have a parent: the adapters."""
        return sorted(model.id for model in self._list() if model.parent is not None)

    def _list(self) -> list[_Model]:
        if self._models is None:
            answer = self.client.ask("GET", "/v1/models")
            self._models = parse(list[_Model], answer.get("data"), "/v1/models")
        return self._models

    def _score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        if self._info is not None:
            self.info()
        splits = [self._splits(item, self.template_of or model) for item in items]
        work = [(item.id, split) for item, found in zip(items, splits, strict=True) for split in found]
        scored = iter(
            [score for chunk in batches(work, self._batch) for score in self._score_splits(model, chunk)]
        )
        return [
            worst_first([next(scored) for _ in found]) if found else ItemScore(item.id, error=REFUSED)
            for item, found in zip(items, splits, strict=True)
        ]

    def _splits(self, item: ScoreItem, model: str) -> list[Split]:
        """Return the ways to tokenize a target after what is given; none where the messages are refused.

        Args:
            item: What is given, and the target.
            model: By whose chat template messages are rendered.
        """
        messages, after = framed(item, self.framing, self.system)
        special = not messages
        target = self._tokenize(item.target, special=False).tokens
        if special:
            before = after
            prefix = self._tokenize(before, special=True).tokens
        else:
            rendered = self._rendered(model, messages)
            if rendered is None:
                return []
            text = self._text(rendered)
            before, prefix = text + after, self._continued(rendered, text, after)
        joint = self._tokenize(before + item.target, special=special)
        splits = split_tokens(prefix, target, joint.tokens, joint.token_strs or (), item.target)
        if special or splits[0].exact or self._tokenize(before, special=False).tokens == prefix:
            return splits
        # The tokens do not give the template's text back, so it cannot be tokenized together with the target.
        return [Split(splits[0].prefix_ids, splits[0].target_ids)]

    def _rendered(self, model: str, messages: Chat) -> list[int] | None:
        """Return the tokens of a chat as the server renders it for a model; None where it refuses it."""
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        try:
            answer = self.client.call("POST", "/tokenize", body)
        except RequestRefusedError:  # its words could be the template's
            return None
        return parse(_Tokens, answer, "/tokenize").tokens

    def _continued(self, rendered: list[int], text: str, after: str) -> list[int]:
        """Return the tokens of rendered messages and of the text after them, as one text if possible."""
        if not after:
            return rendered
        if self._tokenize(text, special=False).tokens == rendered:
            return self._tokenize(text + after, special=False).tokens
        return rendered + self._tokenize(after, special=False).tokens

    def _tokenize(self, text: str, *, special: bool) -> _Tokens:
        return self._ask_tokens({"prompt": text, "add_special_tokens": special, "return_token_strs": True})

    def _ask_tokens(self, body: dict[str, object]) -> _Tokens:
        answer = self.client.ask("POST", "/tokenize", {"model": self._base(), **body})
        return parse(_Tokens, answer, "/tokenize")

    def _text(self, ids: Sequence[int]) -> str:
        body: dict[str, object] = {"model": self._base(), "tokens": list(ids)}
        return parse(str, self.client.ask("POST", "/detokenize", body).get("prompt"), "/detokenize")

    def _score_splits(self, model: str, work: Sequence[tuple[str, Split]]) -> list[ItemScore]:
        limit = next((m.max_model_len for m in self._list() if m.max_model_len), None) or math.inf
        errors = [split_error(split, limit) for _, split in work]
        asked = [split for (_, split), error in zip(work, errors, strict=True) if not error]
        rows = iter(
            self._prompt_logprobs(model, [[*s.prefix_ids, *s.target_ids] for s in asked]) if asked else []
        )
        return [
            ItemScore(name, boundary_exact=split.exact, error=error)
            if error
            else read_rows(name, split, next(rows))
            for (name, split), error in zip(work, errors, strict=True)
        ]

    def _prompt_logprobs(self, model: str, prompts: list[list[int]]) -> list[list[Row]]:
        body = {**GREEDY, "model": model, "prompt": prompts, "max_tokens": 1, "prompt_logprobs": 1}
        response = self.client.send("POST", "/v1/completions", json=body)
        if response.status_code == HTTPStatus.BAD_REQUEST:
            raise ScorerError(
                f"{self.client.server} gives no prompt log-probabilities",
                hint="a vLLM server allows them with --max-logprobs of at least 1",
            )
        choices = parse(list[_Scored], read_json(response).get("choices"), "/v1/completions")
        if sorted(choice.index for choice in choices) != list(range(len(prompts))):
            raise broken("/v1/completions", f"{len(choices)} choices for {len(prompts)} prompts")
        return [choice.prompt_logprobs for choice in sorted(choices, key=lambda c: c.index)]
