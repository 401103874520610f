"""The interface between the audit and an engine.

The audit reaches an engine only through `Scorer`, so the audit and its tests run without vLLM. Implementations:
`audit/scorers/` (over HTTP, and with transformers) and `server/scoring/` (a vLLM engine in this process).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from lorecall.adapters.peft_format.adapter import Adapter
from lorecall.adapters.peft_format.companions import template_digest

CHAT_ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))
"""The roles of messages that chat templates know."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat, as a chat template takes it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """One text to score: the probability of `target` after what is given, teacher-forced.

    Attributes:
        id: Its name in reports.
        prefix: The text right before the target. After `messages` it is the beginning of the assistant's turn.
        target: The text whose tokens are scored.
        tags: Labels of the user's, by which a policy sets limits; reports show them in clear.
        cluster: The near-duplicates that it is one of, by a name; "" if none are known.
        messages: What was said before. If there is any, the served chat template renders it, in every framing,
            and opens the assistant's turn.
    """

    id: str
    prefix: str
    target: str
    tags: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    cluster: str = ""

    @property
    def asked(self) -> tuple[tuple[Message, ...], str, str]:
        """What is given and scored; items that differ only in their ids share it, and their scores."""
        return (self.messages, self.prefix, self.target)

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts, in their order."""
        return (*(message.content for message in self.messages), self.prefix, self.target)

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as JSON objects of role and content."""
        return [{"role": message.role, "content": message.content} for message in self.messages]

    @property
    def fields(self) -> dict[str, object]:
        """The JSON object of a request for scores; without `messages` if there are none."""
        own: dict[str, object] = {"id": self.id, "prefix": self.prefix, "target": self.target}
        return {**own, "messages": self.chat} if self.messages else own

    @property
    def record(self) -> dict[str, object]:
        """The JSON object of a candidate file: that of a request, with tags and cluster if there are any."""
        more = {"tags": list(self.tags), "cluster": self.cluster}
        return {**self.fields, **{name: value for name, value in more.items() if value}}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn: from the logits over the temperature, cut to top-k, then to top-p.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: The least probability that the tokens kept have together; 1 keeps all.
        top_k: How many tokens are kept; 0 keeps all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn with the probabilities of the softmax itself."""
        return self == Sampling()

    @property
    def follows_from_scores(self) -> bool:
        """Whether plain scores tell the probabilities: those of the softmax, or of the argmax alone."""
        return self.plain or self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class ItemScore:
    """Teacher-forced scores of one item's target tokens; all arrays have one entry per target token.

    Attributes:
        id: The item's id.
        prefix_ids: Token ids of the prefix as the engine saw it, special and template tokens included.
        target_ids: Token ids of the target; no EOS, no template tokens.
        p: Probability of the target token given everything before it (softmax at temperature 1), in [0, 1].
        logprob: Natural logarithm of `p` (finite where `p` underflows).
        rank: 1 where the target token is the argmax; 1 + the number of tokens with a strictly larger logit.
        top1_ids: Token id of the argmax (the smallest id on a tie).
        top1_p: Probability of the argmax.
        boundary_exact: Whether tok(prefix) + tok(target) equals tok(prefix + target).
        error: Why the item could not be scored ("" if it was); the arrays are empty then.
        sampled: Natural logarithm of the target token's probability under the sampling scheme that was asked for,
            None where it is never drawn; empty where no scheme was asked for, or the engine cannot tell.
        other: The scores of the text's other split into tokens, where it has two.
    """

    id: str
    prefix_ids: tuple[int, ...] = ()
    target_ids: tuple[int, ...] = ()
    p: tuple[float, ...] = ()
    logprob: tuple[float, ...] = ()
    rank: tuple[int, ...] = ()
    top1_ids: tuple[int, ...] = ()
    top1_p: tuple[float, ...] = ()
    boundary_exact: bool = True
    error: str = ""
    sampled: tuple[float | None, ...] = ()
    other: "ItemScore | None" = None

    @property
    def splits(self) -> "tuple[ItemScore, ...]":
        """The scores of each split of the text into tokens."""
        return (self,) if self.other is None else (self, self.other)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine that was asked, as every report names it.

    Attributes:
        engine: Name and version, such as "vllm 0.32.0 (cpu)".
        base: Served name of the base model, valid as a `model`.
        base_digest: sha256 of the base's manifest, "" if unknown.
        scheme: Quantization scheme of the base ("int8-w8a8", "none", ...), "" if unknown.
        epsilon: Measured bound on the per-logit spread of the engine; None if it was not measured.
        sampling: How requests sample that do not say how; None if unknown.
        penalties: Names of their other sampling parameters, such as "min_p".
        device: What computes, such as "cpu" or "cuda NVIDIA H100 (sm_90)", "" if unknown.
        dtype: The dtype of activations and unquantised weights, "" if unknown.
        kv_cache_dtype: The dtype of cached keys and values, "" if unknown.
    """

    engine: str
    base: str
    base_digest: str = ""
    scheme: str = ""
    epsilon: float | None = None
    sampling: Sampling | None = None
    penalties: tuple[str, ...] = ()
    device: str = ""
    dtype: str = ""
    kv_cache_dtype: str = ""

    def moved(self, now: Self) -> str:
        """Return in what another engine than this one answers now, "" if it is the same; its ε may differ."""
        newer = ("device", "dtype", "kv_cache_dtype")  # which older servers and records do not say
        for name in ("engine", "base", "base_digest", "scheme", *newer):
            then, found = getattr(self, name), getattr(now, name)
            if then != found and (name not in newer or (then and found)):
                return f"the audit began on {name} {then!r} and now meets {found!r}"
        return ""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An adapter as deployed.

    Attributes:
        name: The name under which it is served.
        version: sha256 over config and weights, in hex; "" if unknown.
        rank: The largest LoRA rank of its modules; 0 if unknown.
        effective_parameters: Σ r · (d_in + d_out); 0 if unknown.
        refusal: Which part of the adapter the engine's scores would leave out (lm_head, embed_tokens, ...), ""
            if none.
        training: How it was trained, if it says so.
        chat_template: sha256 (hex) over the chat template of its own that its chats are rendered with, or over
            what it makes of two chats where the server shows no more; "" where that is the base's.
    """

    name: str
    version: str
    rank: int
    effective_parameters: int
    refusal: str = ""
    training: dict[str, object] = field(default_factory=dict)
    chat_template: str = ""

    @classmethod
    def of(cls, name: str, adapter: Adapter) -> Self:
        """Return the version that a PEFT directory holds, under a name."""
        return cls(
            name,
            adapter.version,
            adapter.rank,
            adapter.effective_parameters,
            adapter.refusal,
            adapter.training,
            template_digest(adapter.chat_template),
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of greedy decoding: at most the number of tokens asked for, fewer at an end of sequence.

    Attributes:
        ids: The generated token ids.
        text: Their text, as a client would receive it.
    """

    ids: tuple[int, ...]
    text: str = ""


class Scorer(Protocol):
    """Scores and decodes through one served model; `model` is an adapter's name or the base's."""

    def info(self) -> EngineInfo:
        """Return which engine and which base answer now.

        Raises:
            ScorerError: It cannot be reached, or is known to be another one than before.
        """
        ...

    def adapter(self, name: str) -> AdapterVersion:
        """Return the deployed version of an adapter. Raises AdapterNotFoundError."""
        ...

    def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """Score items through `model`, in the order given; a bad item comes back with its `error` set."""
        ...

    def decode(self, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        """Decode greedily, without penalties: one result for each (prompt ids, number of tokens)."""
        ...

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token alone, in the order given."""
        ...
