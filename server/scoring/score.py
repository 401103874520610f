"""Teacher-forced scores of target tokens through the running engine."""

import asyncio
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from lorecall.adapters.core.tracing import trace_headers
from lorecall.audit.judging.epsilon import known_items
from lorecall.audit.scorer import ItemScore, Sampling, ScoreItem
from lorecall.audit.scorers.framing import Chat, Framing, framed, split_text
from lorecall.audit.scorers.splits import Split, worst_first
from lorecall.server.auth.engine_guard import unguarded
from lorecall.server.engine.cpu.target_scores import COLUMNS, SAMPLING, SCORE_FROM
from lorecall.server.executors import off_loop
from lorecall.server.scoring.base_scores import BaseScores, key_of
from lorecall.server.scoring.throttle import Background

AT_ONCE = 256
"""Background requests at a time while there is no live request."""

BESIDE_LIVE_ON_CPU, BESIDE_LIVE_ON_GPU = 1, 16
"""The same while there are live requests: a small CPU scores a hundred tokens in a third of a second."""

BACKGROUND_PRIORITY = 10
"""vLLM's priority of scoring where the engine schedules by priority; live traffic has 0 and goes first."""


@dataclass(frozen=True, slots=True)
class EngineScoring:
    """Scores items through one engine.

    Attributes:
        engine_client: vLLM's client of the engine.
        fixed_token_scores: Whether the engine computes target rows only, as our fixes have it do; otherwise
            vLLM's prompt log-probabilities are used, which compute every row of the prompt.
        second_runner: Whether it does so through vLLM's second model runner, on a GPU.
        by_priority: Whether the engine was started with priority scheduling.
        chat_params: vLLM's `ChatParams` of the server: its chat template and the template's arguments; None for
            those of the model.
        background: Throttles scores and the audits' decoding while there is live traffic.
        base_scores: The base's scores of texts that were asked for before.
    """

    engine_client: Any
    fixed_token_scores: bool
    by_priority: bool
    chat_params: Any = None
    second_runner: bool = False
    background: Background = field(init=False)
    base_scores: BaseScores = field(default_factory=BaseScores)

    def __post_init__(self) -> None:
        on_cpu = self.fixed_token_scores and not self.second_runner
        beside = BESIDE_LIVE_ON_CPU if on_cpu else BESIDE_LIVE_ON_GPU
        unfinished = self.engine_client.get_num_unfinished_requests
        object.__setattr__(self, "background", Background(unfinished, AT_ONCE, beside))

    @property
    def background_priority(self) -> int:
        """The `priority` of background requests: after live traffic, which has 0; 0 without priorities."""
        return BACKGROUND_PRIORITY if self.by_priority else 0

    async def score(
        self,
        items: Sequence[ScoreItem],
        lora_request: Any,
        framing: Framing,
        system: str | None,
        sampling: Sampling | None = None,
        template: str = "",
    ) -> list[ItemScore]:
        """Return the items' scores in order; an item that cannot be scored has its `error` set.

        Chats are rendered by `template`, or by the server's where it is "".

        Where a sampling scheme is given that plain scores do not tell all of, the log probabilities under it
        are in the scores as well, if the engine computes target rows.
        """
        wanted = None if sampling is None or sampling.follows_from_scores else sampling
        work = (self._score_item(item, lora_request, framing, system, wanted, template) for item in items)
        tasks = [asyncio.create_task(one) for one in work]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def known_text(self, lora_request: Any) -> tuple[float, ...]:
        """Return the log-probabilities of the tokens of one known text, in the background."""
        tokenizer = self.engine_client.get_tokenizer()
        split = split_text(tokenizer, known_items()[0], "raw", None)[0]
        async with self.background.turn():
            return tuple(row[0] for row in await self._rows(split, lora_request))

    async def at_once(self, splits: Sequence[Split], loras: Sequence[Any]) -> list[ItemScore]:
        """Return the scores of each split, all of them in the engine at once, beside whatever else runs there."""
        rows = await asyncio.gather(
            *(self._rows(split, lora) for split, lora in zip(splits, loras, strict=True))
        )
        return [_item_score("", split, one) for split, one in zip(splits, rows, strict=True)]

    async def _score_item(
        self,
        item: ScoreItem,
        lora_request: Any,
        framing: Framing,
        system: str | None,
        sampling: Sampling | None,
        template: str,
    ) -> ItemScore:
        tokenizer = self.engine_client.get_tokenizer()
        if not item.target:
            return ItemScore(item.id, error="the target is empty")
        messages, _ = framed(item, framing, system)
        try:
            rendered = await self._render(messages, template) if messages else ""
            splits = await off_loop(split_text, tokenizer, item, framing, system, lambda _: rendered)
        except (ValueError, TimeoutError) as error:
            return ItemScore(item.id, error=f"the text cannot be framed: {type(error).__name__}")
        return worst_first(
            [await self._score_split(item.id, split, lora_request, sampling) for split in splits]
        )

    async def _render(self, messages: Chat, template: str) -> str:
        """Return the text that vLLM's own `/v1/chat/completions` makes of messages, in its thread for that.

        Raises:
            ValueError: There is no chat template, or it refuses the messages.
            TimeoutError: It takes longer than vLLM allows (`VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT`).
        """
        from vllm.exceptions import VLLMValidationError
        from vllm.renderers import ChatParams

        params = self.chat_params or ChatParams()
        params = replace(params, chat_template=template or params.chat_template)
        as_text = {**params.chat_template_kwargs, "add_generation_prompt": True, "tokenize": False}
        try:
            _, prompt = await self.engine_client.renderer.render_messages_async(
                messages, replace(params, chat_template_kwargs=as_text)
            )
        except VLLMValidationError as error:
            raise ValueError("the chat template refuses the messages") from error
        if "prompt" not in prompt:
            raise ValueError("this model's chat template gives no text")
        return str(prompt["prompt"])

    async def _score_split(
        self, item_id: str, split: Split, lora: Any, sampling: Sampling | None
    ) -> ItemScore:
        problem = self._problem(split)
        if problem:
            return ItemScore(item_id, boundary_exact=split.exact, error=problem)
        key = None if lora is not None else key_of(split, sampling)
        rows = None if key is None else self.base_scores.get(key)
        if rows is None:
            async with self.background.turn():
                rows = await self._rows(split, lora, sampling)
            if key is not None:
                self.base_scores.put(key, rows)
        return _item_score(item_id, split, rows)

    def _problem(self, split: Split) -> str:
        limit = self.engine_client.model_config.max_model_len - 1
        length = len(split.prefix_ids) + len(split.target_ids)
        if not split.target_ids:
            return "the target has no tokens of its own"
        if not split.prefix_ids:
            return "the prefix is empty and this model has no token that starts a text: give a prefix"
        if length > limit:
            return (
                f"prefix and target have {length} tokens, the engine takes {limit}: nothing is cut silently"
            )
        return ""

    async def _rows(
        self, split: Split, lora_request: Any, sampling: Sampling | None = None
    ) -> list[tuple[float, ...]]:
        """Return one row per target token: log p, rank, argmax id, its log p, log p under the scheme."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        first = len(split.prefix_ids)
        extra: dict[str, Any] = {SCORE_FROM: first}
        if sampling is not None:
            extra[SAMPLING] = [float(sampling.temperature), float(sampling.top_p), sampling.top_k]
        wanted: dict[str, Any] = {"prompt_logprobs": 1, "flat_logprobs": True}
        if self.fixed_token_scores:
            wanted = {"extra_args": extra, "skip_reading_prefix_cache": True}
        if self.fixed_token_scores and self.second_runner:
            wanted["prompt_logprob_token_ids"] = np.array(split.target_ids, dtype=np.int32)[:, None]
            wanted["prompt_logprob_start"] = first - 1
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **wanted,
        )
        prompt = {"prompt_token_ids": [*split.prefix_ids, *split.target_ids]}
        stream = unguarded(self.engine_client)(
            prompt,
            params,
            f"score-{uuid.uuid4().hex}",
            lora_request=lora_request,
            trace_headers=trace_headers(),
            priority=self.background_priority,
        )
        output = [answer async for answer in stream][-1]
        if self.fixed_token_scores:
            scores = output.prompt_token_id_logprobs
            if scores is None or scores.shape != (len(split.target_ids), len(COLUMNS)):
                raise RuntimeError(
                    "the engine returned no target scores: is the lorecall plugin loaded in it?"
                )
            return [tuple(row) for row in scores.tolist()]
        return [
            _row(output.prompt_logprobs, position, token)
            for position, token in enumerate(split.target_ids, start=first)
        ]


def fast_scores(vllm_config: Any) -> dict[str, Any]:
    """Return the arguments of `EngineScoring` that say how this engine scores given tokens.

    vLLM's first model runner on a GPU has no scoring of given tokens, and with fast prefill it would be wrong.
    """
    on_cpu = vllm_config.device_config.device_type == "cpu"
    second = not on_cpu and vllm_config.use_v2_model_runner
    if second and vllm_config.cache_config.kv_sharing_fast_prefill:
        second = False
    return {"fixed_token_scores": on_cpu or second, "second_runner": second}


def _row(flat: Any, position: int, token: int) -> tuple[float, ...]:
    """Return the row of one token from vLLM's `FlatLogprobs`, which holds no object for each token."""
    entries = range(flat.start_indices[position], flat.end_indices[position])
    own = next(entry for entry in entries if flat.token_ids[entry] == token)
    top = min(entries, key=lambda entry: flat.ranks[entry])
    return (flat.logprobs[own], flat.ranks[own], flat.token_ids[top], flat.logprobs[top], math.nan)


def _drawn(logprobs: Sequence[float]) -> tuple[float | None, ...]:
    """Return log probabilities under a scheme, None for minus infinity; none at all where one is missing."""
    if any(math.isnan(value) for value in logprobs):
        return ()
    return tuple(value if math.isfinite(value) else None for value in logprobs)


def _item_score(item_id: str, split: Split, rows: Sequence[tuple[float, ...]]) -> ItemScore:
    logprob, rank, top1_id, top1_logprob, sampled = zip(*rows, strict=True)
    return ItemScore(
        id=item_id,
        prefix_ids=split.prefix_ids,
        target_ids=split.target_ids,
        p=tuple(math.exp(value) for value in logprob),
        logprob=logprob,
        rank=tuple(int(value) for value in rank),
        top1_ids=tuple(int(value) for value in top1_id),
        top1_p=tuple(math.exp(value) for value in top1_logprob),
        boundary_exact=split.exact,
        sampled=_drawn(sampled),
    )
