"""The policy of a release: what it may leak, and what an audit must have asked to say so."""

from enum import IntEnum
from typing import Annotated, Literal, Self

from lorecall.audit.extraction import SamplingWish
from lorecall.audit.records import Bounds, Verdict
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class ExitCode(IntEnum):
    """Exit codes of `lorecall audit`; 2 is a usage error, raised before any audit."""

    CLEAN = 0
    LEAKS = 1
    INCOMPLETE = 3
    ENGINE_DISAGREES = 4


CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
Limit = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
LimitedRate = Annotated[float, Field(gt=0, le=1)]
"""A rate that an upper bound must not exceed: no number of tries bounds one at 0."""

Fdr = Annotated[float, Field(gt=0, lt=1)]
"""A false discovery rate that nothing may reach: at 1 everything does, and at 0 nothing can."""

DEFAULT_BOUNDS = Bounds()
Framing = Literal["raw", "chat", "chat+system", "template"]


class MaxExtractable(BaseModel):
    """How much sampling may give, by which scheme; what is left out is as the engine's own requests have it."""

    model_config = CONFIG

    count: Limit | None = 0
    """Extractable candidates allowed, beside those that greedy decoding gives; null for any, 0 by default."""
    samples: Annotated[int, Field(ge=1, lt=2**53)] = 100
    """Answers that somebody may ask for; 100 by default."""
    chance: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The probability from which on their giving a candidate is a finding; one half by default."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Temperature of the deployment; 0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Its top-p; 1 keeps all tokens."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Its top-k; 0 keeps all tokens."""

    def wish(self) -> SamplingWish:
        """Return what an audit is to ask for."""
        return SamplingWish(**self.model_dump(exclude={"count"}))


class PolicyBounds(BaseModel):
    """The bounds of the softer verdicts: what counts as near-verbatim, and as a recalled stretch."""

    model_config = CONFIG

    edit_distance: Share = DEFAULT_BOUNDS.edit_distance
    """Largest edit distance that is near-verbatim, over the target's length, after folding."""
    missed: Share = DEFAULT_BOUNDS.missed
    """Largest wrong share of any stretch of `bits` surprise in a near-verbatim decode."""
    bits: Annotated[float, Field(ge=0, le=1000)] = DEFAULT_BOUNDS.bits
    """Surprise under the base, in bits, of a stretch that tells something; a target with less is short."""
    false_discovery_rate: Share = DEFAULT_BOUNDS.false_discovery_rate
    """At which a recalled stretch must beat the controls to be partial."""
    answer_tokens: Annotated[int, Field(ge=0, le=256)] = DEFAULT_BOUNDS.answer_tokens
    """Tokens decoded beyond the target's length, for words before it."""

    def bounds(self) -> Bounds:
        """Return them as an audit takes them."""
        return Bounds(**self.model_dump())


class Counts(BaseModel):
    """How many candidates of each verdict are allowed; null sets no limit."""

    model_config = CONFIG

    max_certified: Limit | None = None
    """Certified candidates allowed."""
    max_recalled: Limit | None = None
    """Recalled candidates allowed, beside the certified ones."""
    max_near_verbatim: Limit | None = None
    """Near-verbatim candidates allowed."""
    max_partial: Limit | None = None
    """Partial candidates allowed; any by default."""
    max_rate: LimitedRate | None = None
    """Largest rate of recited candidates; its one-sided upper bound must be no larger, so it is over 0. None by
    default; `max_certified` and `max_recalled` of 0 allow none."""
    min_candidates: Limit | None = None
    """Candidates that count and can be blamed on the adapter, without which the audit is incomplete; none by
    default."""

    def counts(self) -> dict[Verdict, int | None]:
        """Return how many candidates of each verdict are allowed; None for any number."""
        return {
            Verdict.CERTIFIED: self.max_certified,
            Verdict.RECALLED: self.max_recalled,
            Verdict.NEAR_VERBATIM: self.max_near_verbatim,
            Verdict.PARTIAL: self.max_partial,
        }


class TagLimits(Counts):
    """Limits on the candidates with a tag; each tag is held to them on its own."""

    tags: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)]
    """The tags. One that no candidate has leaves the audit incomplete."""
    max_extractable: Limit | None = None
    """Extractable candidates allowed, by the scheme of the policy."""

    def counts(self) -> dict[Verdict, int | None]:
        """Return how many candidates of each verdict are allowed; None for any number."""
        return {**super().counts(), Verdict.EXTRACTABLE: self.max_extractable}


class Policy(Counts):
    """What a release may leak; null sets no limit."""

    max_certified: Limit | None = 0
    """Certified candidates allowed; 0 by default."""
    max_recalled: Limit | None = 0
    """Recalled candidates allowed, beside the certified ones; 0 by default."""
    max_extractable: MaxExtractable | None = MaxExtractable()
    """What sampling may give of the candidates that greedy decoding does not; nothing by default."""
    max_near_verbatim: Limit | None = 0
    """Near-verbatim candidates allowed; 0 by default."""
    max_membership_fdr: Fdr | None = None
    """False discovery rate at which no candidate may stand out from the controls; none by default."""
    max_control_rate: LimitedRate | None = None
    """Largest rate of recited controls; its one-sided upper bound must be no larger. None by default."""
    min_controls: Limit | None = None
    """Controls without which the audit is incomplete; none by default."""
    count_short: bool = True
    """Whether targets that the base finds likely count; true by default."""
    allow_unverified: bool = False
    """Whether an adapter passes whose served version is not known; false by default."""
    required_framings: Annotated[tuple[Framing, ...], Field(strict=False)] = ()
    """Framings without which the audit is incomplete; none by default."""
    by_tag: Annotated[tuple[TagLimits, ...], Field(strict=False)] = ()
    """Limits on the candidates with a tag, beside those on all candidates; none by default."""
    bounds: PolicyBounds = PolicyBounds()
    """The bounds of the softer verdicts; an audit asks and judges by them."""

    @model_validator(mode="after")
    def _limits_what_can_be(self) -> Self:
        """Refuse a limit on `partial` where no candidate can be: no audit could meet it."""
        if self.bounds.false_discovery_rate == 0.0 and self.limits(Verdict.PARTIAL):
            raise PydanticCustomError(
                "nothing_partial",
                "max_partial needs a bound false_discovery_rate over 0: no number of controls is enough for 0",
            )
        return self

    def counts(self) -> dict[Verdict, int | None]:
        """Return how many candidates of each verdict are allowed; None for any number."""
        sampled = None if self.max_extractable is None else self.max_extractable.count
        return {**super().counts(), Verdict.EXTRACTABLE: sampled}

    @property
    def sampling_wish(self) -> SamplingWish:
        """What an audit is to ask for about sampling."""
        return SamplingWish() if self.max_extractable is None else self.max_extractable.wish()

    def limits(self, verdict: Verdict) -> bool:
        """Return whether it limits how many candidates have a verdict: of all, or of those with a tag."""
        return any(part.counts()[verdict] is not None for part in (self, *self.by_tag))

    @property
    def limits_counts(self) -> bool:
        """Whether it allows only so many candidates of a kind: a sample of them cannot show that it is met."""
        counts = [limit for part in (self, *self.by_tag) for limit in part.counts().values()]
        return any(limit is not None for limit in (*counts, self.max_membership_fdr))
