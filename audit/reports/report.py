"""The models of one adapter's report: its snippets, its numbers and its seal."""

from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from lorecall.audit.estimates import Outcome
from lorecall.audit.extraction import Extraction, SamplingSource
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.records import EpsilonSource
from lorecall.audit.reports.models import (
    Amount,
    Confidence,
    Count,
    DeltaLoss,
    Engine,
    Epsilon,
    Inputs,
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
from lorecall.audit.reports.snippets import (
    Entry,
    RedactedText,
)
from lorecall.audit.scorer import Sampling
from lorecall.audit.stats.calibration import LEVEL
from pydantic import ConfigDict, Field, StrictBool

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
    checked_share: Share | None = optional()
    """Share of the candidates whose decode is ruled out that are decoded as a check; absent where all are."""
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


class Undecoded(ReportModel):
    """Snippets whose decode was ruled out by their scores, and what the check of that gave."""

    left_out: Count
    """Not decoded, and flagged so."""
    checked: Count
    """Decoded as a check, drawn at random,"""
    found: Count
    """and those of them that decoding gave, in whatever form or nearly."""
    at_most: Count
    """How many of those left out decoding would give (exact one-sided interval, at the report's confidence)."""

    def sentence(self, confidence: float) -> str:
        """Return it in words."""
        return (
            f"{self.left_out} not decoded, whose scores rule out that it matters; of {self.checked} like them "
            f"that were decoded as a check {self.found} were recited or nearly, so at most {self.at_most} of "
            f"those left out would be (one-sided, {confidence:.0%})"
        )


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
    undecoded: Undecoded | None = optional()
    """Absent where all were decoded. Else the upper ends of the rates count what the check cannot exclude."""


class Sequential(ReportModel):
    """The sequential test."""

    bound: Share | None
    """Null where only a budget ended the audit, and no bound was asked about."""
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


class Stratum(ReportModel):
    """The candidates with one tag, of which not all were asked for."""

    tag: str
    """Their first tag, empty for those without one."""
    of: Count
    """Candidates; of a cluster of near-duplicates the one that ranks first."""
    repeated: Count
    """The others of the clusters, which were not asked for."""
    ranked: Count
    """Asked for because they rank highest, and flagged so: of these nothing is estimated."""
    ranked_hits: Count
    ranked_errors: Count
    drawn: Count
    """Asked for at random among the others."""
    hits: Count
    errors: Count
    low: Share
    """Lower end of the interval of the rate of all `of`, at all times at once; errors count as not recited."""
    high: Share
    confidence: Confidence
    """Of this interval alone; all strata together have that of the settings."""
    left_out: Count = Field(default=0, exclude_if=is_empty)
    """Asked for and not decoded; `high` counts as many of them as recited as the check of that allows."""

    def sentence(self) -> str:
        """Return it in words."""
        rest = self.of - self.ranked
        text = f"{self.tag or 'without a tag'}: leak rate of {self.low:.3%} to {self.high:.3%} of {self.of}"
        if self.ranked:
            text += f"; {self.ranked_hits} of the {self.ranked} that rank highest are recited"
        text += (
            f"; {self.hits} of {self.drawn} drawn at random from the {'other ' if self.ranked else ''}{rest}"
        )
        if self.repeated:
            text += f"; {self.repeated} near-duplicates not counted"
        return f"{text} ({self.confidence:.2%} alone)"


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
    """Over all strata; null if every candidate was asked for."""
    strata: tuple[Stratum, ...] = Field(default=(), exclude_if=is_empty)
    """Each tag's part of it; absent if every candidate was asked for, and in reports of older versions."""
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
