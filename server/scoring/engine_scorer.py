"""`Scorer`s over an engine in this process: the running server's, or one that was started for an audit."""

import asyncio
import uuid
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, TypeVar

from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError, ScorerError
from lorecall.adapters.core.tracing import span, trace_headers
from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, Sampling, ScoreItem
from lorecall.audit.scorers.framing import Framing
from lorecall.server.lifecycle.engine_set import LoadedVersion
from lorecall.server.scoring.score import EngineScoring

T = TypeVar("T")


@dataclass(frozen=True)
class EngineScorer:
    """Scores and decodes through one engine; call it from a thread, not from its loop.

    Attributes:
        loop: The engine's event loop.
        scoring: Teacher-forced scores through the engine.
        engine: The engine's description, with the base's name.
        framing: How prefixes are framed.
        system: The system message of the framing "chat", if any.
        sampling: The scheme under which scores also tell how likely sampling gives each token.
        template_of: The adapter by whose chat template all chats are rendered; "" for that of the model asked.
    """

    loop: asyncio.AbstractEventLoop
    scoring: EngineScoring
    engine: EngineInfo
    framing: Framing = field(default="raw", kw_only=True)
    system: str | None = field(default=None, kw_only=True)
    sampling: Sampling | None = field(default=None, kw_only=True)
    template_of: str = field(default="", kw_only=True)

    def framed(self, framing: str, system: str | None) -> Self:
        """Return the same engine, with prefixes put into the model's chat template."""
        return replace(self, framing="raw" if framing == "raw" else "chat", system=system)

    def sampled(self, sampling: Sampling) -> Self:
        """Return the same engine, whose scores also tell how likely sampling gives each token."""
        return replace(self, sampling=sampling)

    def templated(self, adapter: str) -> Self:
        """Return the same engine, whose chats are all rendered by an adapter's chat template."""
        return replace(self, template_of=adapter)

    def info(self) -> EngineInfo:
        """Return what the engine is."""
        return self.engine

    def adapter(self, name: str) -> AdapterVersion:
        """Return the version that answers to a name. Raises AdapterNotFoundError."""
        return AdapterVersion.of(name, self._serving(name)[0])

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Score items in the order given; a bad item comes back with its `error` set."""
        request, template = self._request(model), self._template(self.template_of or model)
        with span("score", model=model, items=len(items)):
            return self._wait(
                self.scoring.score(items, request, self.framing, self.system, self.sampling, template)
            )

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """Decode greedily; each prompt is (token ids, number of tokens to generate)."""
        with span("decode", model=model, items=len(prompts)):
            return self._wait(self._decode_all(prompts, self._request(model)))

    def draw(
        self, model: str, prompt: tuple[Sequence[int], int], answers: int, sampling: Sampling, seed: int
    ) -> list[Decoded]:
        """Draw answers to one prompt; they yield to live traffic one by one."""
        ids, tokens = prompt
        lora = self._request(model)
        schemes = [{**asdict(sampling), "seed": seed + number} for number in range(answers)]
        return self._wait(_all(self._decode(list(ids), tokens, lora, scheme) for scheme in schemes))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token alone."""
        tokenizer = self.scoring.engine_client.get_tokenizer()
        return [str(tokenizer.decode([token])) for token in ids]

    def _serving(self, name: str) -> tuple[Adapter, Any]:
        """Return an adapter and the engine's request for it. Raises AdapterNotFoundError."""
        raise NotImplementedError

    def _request(self, model: str) -> Any:
        return None if model == self.engine.base else self._serving(model)[1]

    def _template(self, name: str) -> str:
        """Return the chat template of an adapter's own; "" for the base's."""
        return "" if name == self.engine.base else self._serving(name)[0].chat_template

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        except LorecallError:
            raise
        except Exception as error:  # vLLM raises whatever its engine raised
            raise ScorerError(
                f"the engine failed: {type(error).__name__}", hint="its log says more"
            ) from error

    async def _decode_all(self, prompts: Sequence[tuple[Sequence[int], int]], lora: Any) -> list[Decoded]:
        return await _all(self._decode(list(ids), n, lora, {"temperature": 0.0}) for ids, n in prompts)

    async def _decode(self, ids: list[int], tokens: int, lora: Any, scheme: Mapping[str, Any]) -> Decoded:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(**scheme, max_tokens=tokens, output_kind=RequestOutputKind.FINAL_ONLY)
        async with self.scoring.background.turn():
            stream = self.scoring.engine_client.generate(
                {"prompt_token_ids": ids},
                params,
                f"audit-{uuid.uuid4().hex}",
                lora_request=lora,
                trace_headers=trace_headers(),
                priority=self.scoring.background_priority,
            )
            answer = [output async for output in stream][-1].outputs[0]
        return Decoded(tuple(answer.token_ids), answer.text)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return list(await asyncio.gather(*work))


@dataclass(frozen=True)
class LoadedVersionScorer(EngineScorer):
    """Scores through one loaded version and the base; the version needs no public name yet.

    Attributes:
        loaded: The version; `score` and `decode` take its name or the base's.
    """

    loaded: LoadedVersion

    def _serving(self, name: str) -> tuple[Adapter, Any]:
        if name != self.loaded.name:
            raise AdapterNotFoundError(f"adapter {name!r} is not under audit", param="adapter")
        return self.loaded.info, self.loaded.lora_request

    def _template(self, name: str) -> str:
        """Return the version's own chat template, for the base as well: both are asked for the same texts."""
        del name
        return self.loaded.info.chat_template
