"""The models of one adapter's report: its snippets, its numbers and its seal."""

from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from lorecall.audit.extraction import Extraction, SamplingSource
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.records import EpsilonSource, Flag, Group, Judged, Outcome, Verdict
from lorecall.audit.reports.models import (
    CONFIG,
    TAGS,
    Amount,
    Confidence,
    Count,
    DeltaLoss,
    Engine,
    Epsilon,
    Inputs,
    Number,
    Parameters,
    Rate,
    RateAt,
    ReportModel,
    Share,
    Started,
    Threshold,
    Tool,
    VerdictCounts,
    Version,
    is_empty,
    optional,
)
from lorecall.audit.scorer import Sampling
from lorecall.audit.stats.calibration import LEVEL
from pydantic import ConfigDict, Discriminator, Field, StrictBool, Tag
from pydantic.dataclasses import dataclass

PAYLOAD_TYPE: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"


class AuditedAdapter(ReportModel):
    """The adapter."""

    name: str
    version: Version
    rank: Count
    effective_parameters: Parameters
    training: dict[str, Any]
    """The training manifest, where the adapter has one."""
    chat_template: str | None = optional()
    """sha256 over the chat template of its own that chats were rendered with, for the adapter and the base; where
    it is not stated, the base's was used."""


class RedactedText(ReportModel):
    """A text's keyed hash and its length, and the text only where it may be shown."""

    hash: str
    characters: Count
    text: str | None = optional()


class SamplingScheme(ReportModel):
    """What is extractable, and how the answers are drawn: by temperature, then top-k, then top-p."""

    samples: Annotated[int, Field(strict=True, ge=1)]
    """Answers, of which one or more would have to give the target,"""
    chance: Confidence
    """with this probability."""
    temperature: Amount
    top_p: Share
    """1 keeps all tokens."""
    top_k: Count
    """0 keeps all tokens."""
    source: SamplingSource
    """Who said so: the option or policy, the engine's own defaults, or nobody."""
    left_out: tuple[str, ...]
    """Other sampling parameters of the engine's own requests, which the probabilities leave out."""

    @classmethod
    def of(cls, found: Extraction) -> Self:
        """Return it from what an audit looked for."""
        drawn = found.sampling
        return cls(
            samples=found.samples,
            chance=found.chance,
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            top_k=drawn.top_k,
            source=found.source,
            left_out=found.left_out,
        )

    def words(self) -> str:
        """Return it in words."""
        drawn = f"temperature {self.temperature:g}, top-p {self.top_p:g}, top-k {self.top_k or 'off'}"
        return f"{self.samples} answers at {drawn} ({self.source})"

    def extraction(self) -> Extraction:
        """Return it as an audit has it."""
        drawn = Sampling(self.temperature, self.top_p, self.top_k)
        return Extraction(self.samples, self.chance, drawn, self.source, self.left_out)


class Settings(ReportModel):
    """The settings of the audit."""

    views: Annotated[tuple[str, ...], Field(min_length=1)]
    """The ways each snippet was asked for; the gravest verdict counts."""
    seed: Annotated[int, Field(strict=True)]
    confidence: Confidence
    edit_distance: Share
    missed: Share
    """Largest wrong share of any stretch of `bits` surprise in a near-verbatim decode."""
    bits: Amount
    false_discovery_rate: Share
    """At which a recalled stretch must beat the controls to be `partial`."""
    answer_tokens: Count
    """Tokens decoded beyond the target's length."""
    sampling: SamplingScheme | None = optional()
    """Absent in reports of versions that did not look for what sampling gives."""
    system: RedactedText | None
    """The system message of the framing chat+system."""
    template: RedactedText | None
    """The text of the framing template."""


class TextDisplay(ReportModel):
    """Whether texts are shown."""

    shown: StrictBool
    salt_id: str
    """Names the salt of the hashes; the salt itself is in no report."""


class GateAnswer(ReportModel):
    """The policy's answer."""

    passed: StrictBool
    exit_code: ExitCode
    reasons: tuple[str, ...]
    policy: dict[str, Any]


class Summary(ReportModel):
    """Counts over one set."""

    snippets: Count
    tokens: Count
    tokens_over_half: Count
    verdicts: VerdictCounts
    delta_loss: DeltaLoss
    recited: Rate
    """Certified and recalled, of those that are neither errors nor known to the base."""
    leaked: Rate
    """The same with extractable, near-verbatim and partial."""
    unknown_chances: Count = Field(default=0, exclude_if=is_empty)
    """Snippets that may be extractable: this scorer cannot tell how likely sampling gives them."""
    not_asked: dict[str, Count] = Field(default_factory=dict, exclude_if=is_empty)
    """Snippets that could not be asked in a view, by its name."""


class Sequential(ReportModel):
    """The sequential test."""

    bound: Share
    confidence: Share
    of: Count
    taken: Count
    hits: Count
    errors: Count
    """Candidates that could not be scored: the lower end counts them as not recited, the upper end as recited."""
    low: Share
    high: Share
    decision: Literal["below", "above", "open"]
    batch: Count | None = optional()
    """Candidates taken between two looks at the result."""

    def outcome(self) -> Outcome:
        """Return the outcome that this states."""
        names = [one.name for one in fields(Outcome)]
        return Outcome(**{name: getattr(self, name) for name in names})


class Multiplicity(ReportModel):
    """How many snippets were tested at once."""

    tests: Count
    false_alarms_at_most: Amount | None
    """Tests times the one-sided upper bound of the controls' rate; null without controls."""


class TruePositiveRate(ReportModel):
    """How many candidates ΔL finds at a false-positive rate, which the controls must be enough for."""

    false_positive_rate: Share
    rate: RateAt


class Roc(ReportModel):
    """How well ΔL tells candidates from controls."""

    area: Share
    """Area under the ROC curve; a half is chance."""
    low: Share
    """Lower end of its interval (Newcombe 2006, method 5)."""
    high: Share
    rates: tuple[TruePositiveRate, ...]


class Membership(ReportModel):
    """How the candidates stand out from the controls, by conformal p-values of ΔL, log p_z and recalled bits.

    Assumes that a candidate which was never trained on is exchangeable with the controls.
    """

    controls: Count
    """Controls that the candidates were compared with."""
    rate: Share
    """The false discovery rate at which a candidate is a finding (Benjamini, Hochberg 1995)."""
    findings: Count
    least_q: Share
    """The smallest false discovery rate at which a candidate that is not recited is a finding."""
    line: Share
    """The largest p-value of a finding; 0 if there is none."""
    controls_over: Count
    """Controls whose p-value against the other controls is no larger than that."""
    roc: Roc

    def sentence(self) -> str:
        """Return it in words."""
        roc = self.roc
        text = (
            f"{self.findings} candidates that are not recited stand out from {self.controls} controls at a false "
            f"discovery rate of {self.rate:.0%}, {self.controls_over} controls cross that line; ΔL tells the two "
            f"sets apart with an area under the ROC curve of {roc.area:.3f} ({roc.low:.3f} to {roc.high:.3f})"
        )
        for at in roc.rates:
            text += f", and {at.rate.hits} of {at.rate.of} at {at.false_positive_rate:.1%} false positives"
        return text


class Calibration(ReportModel):
    """Whether the controls can stand for candidates that were never trained on.

    The base's loss on both sets has one distribution if they are exchangeable (two-sample Kolmogorov-Smirnov).
    """

    statistic: Share | None
    """Largest distance between the two distributions; null where one of the sets has no scores."""
    p_value: Share | None
    reason: str
    """Why no rate rests on the controls; empty if rates do."""

    def sentence(self) -> str:
        """Return it in words."""
        if self.p_value is None:
            return self.reason or "the base's loss could not be compared"
        found = (
            f"the base's loss on candidates and controls: D = {self.statistic:.3f}, p = {self.p_value:.2g}"
        )
        if self.reason:
            return f"{found}; {self.reason}, so no rate rests on them"
        return found if self.p_value >= LEVEL else f"{found}: the two differ, so a rate may be off"


class Omitted(ReportModel):
    """Snippets of each set that are counted in its summary and not among `snippets`, which are the gravest."""

    candidates: Count
    controls: Count | None = optional()
    own_candidates: Count | None = optional()
    own_controls: Count | None = optional()


@dataclass(frozen=True, slots=True, config=CONFIG)
class Token:
    """One target token; a dataclass with slots, because a report may hold millions.

    Where texts are not shown, p is given to two digits, on its side of one half, and the rank as the least power
    of ten that is no smaller: with more, whoever has the adapter could tell which token it is.
    """

    p: Share
    rank: Annotated[int, Field(strict=True, ge=1)]
    base_p: Share | None
    """Under the base; null where its split of the text has no such token."""
    id: Count | None = optional()
    """The token, only where texts are shown, as its text."""
    text: str | None = optional()


class ViewVerdict(ReportModel):
    """What one way of asking gave."""

    view: str
    verdict: Verdict
    min_p: Share | None


class Snippet(ReportModel):
    """One snippet; without scores if its verdict is an error."""

    id: str
    set: Group
    verdict: Verdict
    flags: tuple[Flag, ...]
    alarm: str
    """Why the engine contradicts itself on this snippet, empty if it does not."""
    error: str
    view: str
    """The way of asking that gave this verdict."""
    views: tuple[ViewVerdict, ...]
    not_asked: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """The ways that it could not be asked in: the shorter prefix is no text of those tokens."""
    prefix: RedactedText
    target: RedactedText
    history: RedactedText | None = optional()
    """The messages before the assistant's turn, if it has any: each "role: content", with blank lines between."""
    min_p: Share | None
    decoded_equal: StrictBool | None
    """Greedy decoding gave the target, by tokens or by text."""
    tokens: tuple[Token, ...]
    p_value: Share | None = optional()
    """Conformal, against the controls."""
    q_value: Share | None = optional()
    """The smallest false discovery rate at which this candidate is a finding."""
    tags: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """The user's labels of the candidate, shown in clear."""
    pending: Literal[True] | None = optional()
    """Only while an audit runs: a stretch is recalled, and whether it beats the controls is known at the end."""

    @property
    def evidence(self) -> Verdict:
        """What its own evidence gives: `partial` for a recalled stretch that waits for the controls."""
        return Verdict.PARTIAL if self.pending else self.verdict

    def judged(self) -> Judged:
        """Return what a tally counts."""
        return Judged(
            self.evidence, self.alarm, self.flags, 0, 0, None, not_asked=self.not_asked, tags=self.tags
        )


class Drawn(ReportModel):
    """What drawn answers gave, beside what was predicted."""

    answers: Count
    seen: Count
    """Answers that begin with the target's tokens."""
    seen_as_text: Count
    """Answers that begin with the target's text, in whatever tokens."""
    expected: Amount | None
    """How many should begin with its tokens; null where the probability is not known."""
    interval: tuple[Count, Count] | None
    """The exact binomial prediction interval of `seen`, at the report's confidence."""


class ScoredSnippet(Snippet):
    """One snippet with its scores."""

    length: Annotated[int, Field(strict=True, ge=1)]
    """Target tokens."""
    min_p_at: Count
    over_half: Count
    locked: tuple[Count, ...]
    """Positions with p over the threshold."""
    near: tuple[Count, ...]
    """Positions with 0.3 <= p <= 0.5."""
    certified_by_p: StrictBool
    rank1: StrictBool
    """Every target token is the one argmax."""
    exact_memorization: Share
    """Share of the target tokens that are the argmax (open-unlearning)."""
    extraction_strength: Share
    """Share of the target after which all is the argmax (open-unlearning)."""
    decoded_ids_equal: StrictBool
    edit_distance: Amount
    first_failing: Count | None
    """First position that is not the one argmax."""
    longest_run: Count
    longest_run_at: Count
    run_bits: Number
    loss: Number
    base_loss: Number
    delta_loss: Number
    base_min_p: Share
    base_bits: Number
    base_recites: StrictBool
    log10_pz: Number | None
    """log10 of the probability of the whole target; null where it is 0."""
    log10_n50: Number | None
    """log10 of the samples at temperature 1 for a 50 % chance of extraction; null where it is infinite."""
    chance: Share | None = optional()
    """The probability that one of the stated number of sampled answers is the target; absent where unknown."""
    chance_at_most: Share | None = optional()
    """Only where the scorer cannot tell the chance, but that it is no larger than this."""
    unknown_chance: Literal[True] | None = optional()
    """It may be extractable, as it was asked for here or in another view or split: the scorer cannot tell."""
    drawn: Drawn | None = optional()
    """Only where answers were drawn (`--sample`)."""

    def judged(self) -> Judged:
        """Return what a tally counts."""
        return Judged(
            self.evidence,
            self.alarm,
            self.flags,
            self.length,
            self.over_half,
            self.delta_loss,
            self.log10_pz,
            self.run_bits,
            bool(self.unknown_chance),
            self.not_asked,
            self.base_loss,
            self.tags,
        )


def _kind(value: object) -> str:
    verdict = value.get("verdict") if isinstance(value, dict) else getattr(value, "verdict", None)
    return TAGS[verdict != Verdict.ERROR]


Entry = Annotated[
    Annotated[Snippet, Tag(TAGS[0])] | Annotated[ScoredSnippet, Tag(TAGS[1])], Discriminator(_kind)
]


class Content(ReportModel):
    """All that a report says, before it is sealed."""

    schema_version: Literal["2.0"]
    tool: Tool
    started: Started
    seconds: Amount
    adapter: AuditedAdapter
    engine: Engine
    epsilon: Epsilon
    epsilon_source: EpsilonSource
    threshold: Threshold
    settings: Settings
    inputs: Inputs
    text: TextDisplay
    gate: GateAnswer
    summary: Summary
    """Over the candidates only."""
    controls: Summary | None
    """Over the controls; null if there were none."""
    by_tag: dict[str, Summary] = Field(default_factory=dict, exclude_if=is_empty)
    """Over the candidates with each tag."""
    own_candidates: Summary | None = optional()
    """Over the candidates that came with the adapter; they can add a refusal, and take none away."""
    own_controls: Summary | None = optional()
    no_controls: Count | None = optional()
    """How many of the uploader's controls share text with a candidate of the operator's, if any do."""
    sequential: Sequential | None
    """The sequential test, null if every candidate was asked for."""
    multiplicity: Multiplicity
    calibration: Calibration | None = optional()
    """Of the controls; left out without controls."""
    membership: Membership | None
    """Null without controls that rates may rest on: then nothing is `partial`."""
    omitted: Omitted
    snippets: tuple[Entry, ...]


class Signature(ReportModel):
    """One signature of an envelope."""

    keyid: str
    sig: str


class Envelope(ReportModel):
    """A signed statement (DSSE): the base64 of an in-toto statement, and who signed it."""

    payload: str
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815  DSSE's own name
    signatures: Annotated[tuple[Signature, ...], Field(min_length=1)]


class Seal(ReportModel):
    """Digest of the canonical JSON (RFC 8785) of all else, and the signed statement where there was a key."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    envelope: Envelope | None = optional()


class Report(Content):
    """What one adapter was found to have memorised.

    Probabilities are teacher-forced, at temperature 1, through the served adapter.
    """

    model_config = ConfigDict(title="lorecall audit report")

    seal: Seal
