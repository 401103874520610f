"""A `Scorer` over the HTTP routes of a lorecall server.

No message raised here holds a candidate's text: what the server says of a scoring request may quote it.
"""

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote

import httpx
from lorecall.adapters.core.errors import AdapterNotFoundError, ScorerError, UsageError
from lorecall.adapters.core.field_errors import describe_error
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, Sampling, ScoreItem
from lorecall.audit.scorers.batches import batches
from lorecall.audit.scorers.http_client import TIMEOUT_S, HttpClient, broken, read_json
from pydantic import BaseModel, TypeAdapter, ValidationError

# Greedy decoding without the penalties that a model's generation_config may bring along.
GREEDY: dict[str, object] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "return_token_ids": True,
    "logprobs": None,  # our server would add them
}

T = TypeVar("T")


class _Choice(BaseModel):
    index: int
    text: str
    token_ids: list[int]


class HttpScorer:
    """Scores through `POST /v1/score` and decodes through vLLM's `POST /v1/completions`.

    Args:
        server: Base URL of the server, with or without `/v1`.
        api_key: Sent as a bearer token; by default the environment variable LORECALL_API_KEY.
        batch: Items in one request.
        timeout: Seconds to wait for one answer.
        transport: Replaces the network, for an in-process application.

    Raises:
        UsageError: The URL or the batch cannot be used.
    """

    def __init__(
        self,
        server: str,
        *,
        api_key: str | None = None,
        batch: int = 64,
        timeout: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, not {batch}", param="batch")
        self.framing = "raw"
        self.system: str | None = None
        self.sampling = Sampling()
        self.template_of = ""
        self._batch = batch
        self._texts: dict[int, str] = {}
        self._info: EngineInfo | None = None
        self._versions: dict[str, str] = {}
        self._priority = 0
        self.client = HttpClient(server, api_key=api_key, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def framed(self, framing: str, system: str | None) -> Self:
        """Return a scorer on the same connections whose prefixes are framed by the server's chat template.

        Args:
            framing: "raw", "chat" or "chat+system".
            system: The system message, for "chat+system".
        """
        other = copy.copy(self)
        other.framing = "raw" if framing == "raw" else "chat"
        other.system = system
        return other

    def sampled(self, sampling: Sampling) -> Self:
        """Return a scorer on the same connections whose scores also tell how likely sampling gives each token."""
        other = copy.copy(self)
        other.sampling = sampling
        return other

    def templated(self, adapter: str) -> Self:
        """Return a scorer on the same connections whose chats are all rendered by an adapter's chat template."""
        other = copy.copy(self)
        other.template_of = adapter
        return other

    def info(self) -> EngineInfo:
        """Return what `GET /v1/engine` says; from then on decoding yields to live traffic.

        The first call of an audit has the server measure its ε, if it has not yet.

        Raises:
            ScorerError: It is no lorecall server, or another engine or base than before answers.
        """
        response = self.client.send("GET", f"/v1/engine?measure={'true' if self._info is None else 'false'}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise ScorerError(
                f"{self.client.server} answers, but has no /v1/engine",
                hint="it is no lorecall server; start one with `lorecall serve`",
                param="server",
            )
        answer = read_json(response)
        self._priority = parse(int, answer.get("background_priority", 0), "/v1/engine")
        return self._same(parse(EngineInfo, answer, "/v1/engine"))

    def _same(self, now: EngineInfo) -> EngineInfo:
        """Return the engine as it was first told, if it is still that one."""
        if self._info is None:
            self._info = now
        if moved := self._info.moved(now):
            raise ScorerError(moved, hint="audit again, when the server is at rest")
        return self._info

    def _base(self) -> str:
        """Return the base's served name, asked once."""
        return (self._info or self.info()).base

    def adapter(self, name: str) -> AdapterVersion:
        """Return the deployed version of an adapter; an unknown name fails with the known ones."""
        response = self.client.send("GET", f"/v1/adapters/{quote(name, safe='')}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            known = ", ".join(self.adapter_names()) or "none yet"
            raise AdapterNotFoundError(
                f"no adapter {name!r} on {self.client.server}", hint=f"it has: {known}", param="adapter"
            )
        return parse(AdapterVersion, read_json(response), "/v1/adapters")

    def adapter_names(self) -> list[str]:
        """Return the names of all adapters of the server."""
        return sorted(str(entry["name"]) for entry in self.client.adapters())

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Score items in requests of `batch` items each, in the order given."""
        return [score for chunk in batches(items, self._batch) for score in self._score(model, chunk)]

    def _score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        body: dict[str, object] = {
            "model": model,
            "items": [item.fields for item in items],
            "framing": self.framing,
            "system": self.system,
        }
        if self.template_of:
            body["chat_template_of"] = self.template_of
        if not self.sampling.follows_from_scores:
            body["sampling"] = asdict(self.sampling)
        answer = self.client.ask("POST", "/v1/score", body)
        self._check_answerer(model, answer)
        scores = parse(list[ItemScore], answer.get("items"), "/v1/score")
        if [score.id for score in scores] != [item.id for item in items]:
            raise broken("/v1/score", "the items do not come back in the order given")
        for score in (split for both in scores for split in both.splits):
            arrays = (
                score.p,
                score.logprob,
                score.rank,
                score.top1_ids,
                score.top1_p,
                score.sampled or score.p,
            )
            if any(len(array) != len(score.target_ids) for array in arrays):
                raise broken("/v1/score", f"arrays of different lengths for the item {score.id!r}")
        return scores

    def _check_answerer(self, model: str, answer: dict[str, Any]) -> None:
        """Check that the engine and the version that gave these scores are those that gave the first ones.

        A lorecall server says so beside the scores; one that does not is asked.

        Raises:
            ScorerError: They are not, so the scores would be of two models.
        """
        if "engine" in answer:
            self._same(parse(EngineInfo, answer["engine"], "/v1/score"))
        elif self._info is not None:
            self.info()
        version = str(answer.get("version", ""))
        if self._versions.setdefault(model, version) != version:
            raise ScorerError(
                f"{model!r} was given a new version during the audit", hint="audit again, when it is at rest"
            )

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """Decode greedily; prompts of like length of answer share a request."""
        order = sorted(range(len(prompts)), key=lambda i: prompts[i][1])
        found: dict[int, Decoded] = {}
        for chunk in batches(order, self._batch):
            tokens = max(prompts[i][1] for i in chunk)
            answers = self._complete(model, [prompts[i][0] for i in chunk], tokens)
            found.update(zip(chunk, answers, strict=True))
        return [found[i] for i in range(len(prompts))]

    def draw(
        self, model: str, prompt: tuple[Sequence[int], int], answers: int, sampling: Sampling, seed: int
    ) -> list[Decoded]:
        """Draw answers to one prompt, `batch` of them in a request."""
        ids, tokens = prompt
        found: list[Decoded] = []
        while len(found) < answers:
            count = min(self._batch, answers - len(found))
            scheme = {**asdict(sampling), "n": count, "seed": seed + len(found)}
            found += self._complete(model, [ids], tokens, scheme)
        return found

    def _complete(
        self,
        model: str,
        prompts: list[Sequence[int]],
        tokens: int,
        scheme: Mapping[str, object] | None = None,
    ) -> list[Decoded]:
        scheme = scheme or {"n": 1}
        body = {**GREEDY, "model": model, "prompt": [list(ids) for ids in prompts], "max_tokens": tokens}
        answer = self.client.ask("POST", "/v1/completions", self.in_background({**body, **scheme}))
        choices = parse(list[_Choice], answer.get("choices"), "/v1/completions")
        wanted = len(prompts) * int(str(scheme["n"]))
        if sorted(choice.index for choice in choices) != list(range(wanted)):
            raise broken("/v1/completions", f"{len(choices)} choices where {wanted} were asked for")
        return [Decoded(tuple(c.token_ids), c.text) for c in sorted(choices, key=lambda c: c.index)]

    def in_background(self, body: dict[str, object]) -> dict[str, object]:
        """Return a generation's body with the priority that the server gives to audits, once `info` was asked."""
        return {**body, "priority": self._priority} if self._priority else body  # one queue refuses any

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token alone, asking the server once for each distinct id."""
        for token in dict.fromkeys(ids):
            if token not in self._texts:
                body: dict[str, object] = {"model": self._base(), "tokens": [token]}
                answer = self.client.ask("POST", "/detokenize", body)
                self._texts[token] = str(answer.get("prompt", ""))
        return [self._texts[token] for token in ids]


@cache
def _reader(kind: Hashable) -> TypeAdapter[Any]:
    """Return what reads a kind of value; to make one takes longer than to read an answer with it."""
    return TypeAdapter(cast("type[Any]", kind))


def parse(kind: type[T], value: object, path: str) -> T:
    """Read a JSON value as `kind`.

    Raises:
        ScorerError: It is none; the message names the field, never its value.
    """
    try:
        return cast("T", _reader(cast("Hashable", kind)).validate_python(value))
    except ValidationError as error:
        where, what = describe_error(error.errors(include_context=False)[0], kind)
        raise broken(path, f"{where or 'the answer'}: {what}") from None  # the cause quotes the answer
