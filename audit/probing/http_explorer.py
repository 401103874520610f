"""An `Explorer` over the HTTP routes of a lorecall server, or of another server of vLLM's API."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lorecall.audit.probing.explorer import Rollout, Row
from lorecall.audit.scorers.batches import batches
from lorecall.audit.scorers.http_client import RequestRefusedError, broken
from lorecall.audit.scorers.http_scorer import GREEDY, HttpScorer, parse
from pydantic import BaseModel

TOKEN = "token_id:"  # noqa: S105  how vLLM writes a token as its id


class _Logprobs(BaseModel):
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class _Rolled(BaseModel):
    index: int
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: _Logprobs


class _Logprob(BaseModel):
    logprob: float


class _Read(BaseModel):
    index: int
    prompt_logprobs: list[dict[int, _Logprob] | None]


class HttpExplorer:
    """Asks through `POST /v1/completions`, with the priority of an audit.

    Args:
        scorer: Its connections, its base and its priority are used.
        batch: Prompts in one request.
    """

    def __init__(self, scorer: HttpScorer, batch: int = 32) -> None:
        self._scorer = scorer
        self._batch = batch

    def limit(self) -> int:
        """Return the `max_model_len` that the server states of its base."""
        listed = self._scorer.client.ask("GET", "/v1/models").get("data")
        models = parse(list[dict[str, Any]], listed, "/v1/models")
        stated = [model["max_model_len"] for model in models if isinstance(model.get("max_model_len"), int)]
        if not stated:
            raise broken("/v1/models", "no model states its max_model_len")
        return int(min(stated))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids by the server's `POST /tokenize`."""
        return self._tokenize({"prompt": text, "add_special_tokens": True})

    def chat(self, model: str, user: str) -> tuple[int, ...] | None:
        """Return the template's ids by `POST /tokenize`; None if the server refuses the messages."""
        body = {"model": model, "messages": [{"role": "user", "content": user}]}
        try:
            answer = self._scorer.client.call("POST", "/tokenize", {**body, "add_generation_prompt": True})
        except RequestRefusedError:
            return None
        return tuple(parse(list[int], answer.get("tokens"), "/tokenize"))

    def _tokenize(self, body: dict[str, object]) -> tuple[int, ...]:
        answer = self._scorer.client.ask("POST", "/tokenize", {"model": self._scorer.info().base, **body})
        return tuple(parse(list[int], answer.get("tokens"), "/tokenize"))

    def texts(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts by `POST /detokenize`, one request each."""
        bodies = [{"model": self._scorer.info().base, "tokens": list(ids)} for ids in sequences]
        answers = [self._scorer.client.ask("POST", "/detokenize", body) for body in bodies]
        return [parse(str, answer.get("prompt"), "/detokenize") for answer in answers]

    def roll(self, model: str, prompts: Sequence[Sequence[int]], tokens: int, top: int) -> list[Rollout]:
        """Continue greedily; the engine's prefix cache serves what prompts share."""
        asked = {"max_tokens": tokens, "logprobs": top, "return_tokens_as_token_ids": True}
        return [
            _rollout(parse(_Rolled, choice, "/v1/completions"))
            for chunk in batches(prompts, self._batch)
            for choice in self._complete(model, chunk, asked)
        ]

    def rows(self, model: str, sequences: Sequence[tuple[Sequence[int], int]], top: int) -> list[list[Row]]:
        """Read the rows out of the prompts' log-probabilities; each request generates one token besides."""
        found: list[list[Row]] = []
        for chunk in batches(sequences, self._batch):
            choices = self._complete(
                model, [ids for ids, _ in chunk], {"max_tokens": 1, "prompt_logprobs": top}
            )
            for choice, (ids, start) in zip(choices, chunk, strict=True):
                rows = parse(_Read, choice, "/v1/completions").prompt_logprobs
                if len(rows) != len(ids):
                    raise broken("/v1/completions", f"{len(rows)} rows for a prompt of {len(ids)} tokens")
                found.append([{t: one.logprob for t, one in (row or {}).items()} for row in rows[start:]])
        return found

    def _complete(
        self, model: str, prompts: Sequence[Sequence[int]], asked: Mapping[str, object]
    ) -> list[dict[str, Any]]:
        body = {**GREEDY, "model": model, "prompt": [list(ids) for ids in prompts], **asked}
        answer = self._scorer.client.ask("POST", "/v1/completions", self._scorer.in_background(body))
        choices = parse(list[dict[str, Any]], answer.get("choices"), "/v1/completions")
        choices.sort(key=lambda choice: choice.get("index", -1))
        if [choice.get("index") for choice in choices] != list(range(len(prompts))):
            raise broken("/v1/completions", f"{len(choices)} choices for {len(prompts)} prompts")
        return choices


def _rollout(choice: _Rolled) -> Rollout:
    rows = [_row(row) for row in choice.logprobs.top_logprobs]
    if len(rows) != len(choice.token_ids):
        raise broken("/v1/completions", f"{len(rows)} rows for {len(choice.token_ids)} tokens")
    ids = choice.token_ids
    if choice.finish_reason == "stop" and ids:  # the last token is the end of sequence
        return Rollout(tuple(ids[:-1]), tuple(rows[:-1]), rows[-1])
    return Rollout(tuple(ids), tuple(rows))


def _row(row: Mapping[str, float] | None) -> Row:
    found = {
        int(name.removeprefix(TOKEN)): value for name, value in (row or {}).items() if name.startswith(TOKEN)
    }
    if not found or not all(math.isfinite(value) or value == -math.inf for value in found.values()):
        raise broken("/v1/completions", "no top log-probabilities by token id")
    return found
