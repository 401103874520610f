"""The records of an audit: what it says of a snippet, of a set and of an adapter, and what that rests on."""

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from lorecall.audit.coarse import coarse_bits, coarse_log10, coarse_nats
from lorecall.audit.extraction import Extraction
from lorecall.audit.scorer import AdapterVersion, EngineInfo, ItemScore, ScoreItem


class Verdict(StrEnum):
    """What an audit says of one snippet; the first that applies, in this order."""

    ERROR = "error"
    BASE_KNOWN = "base-known"
    CERTIFIED = "certified"
    RECALLED = "recalled"
    EXTRACTABLE = "extractable"
    NEAR_VERBATIM = "near-verbatim"
    PARTIAL = "partial"
    CLEAR = "clear"


MEANINGS: dict[Verdict, str] = {
    Verdict.ERROR: "could not be scored; says nothing about the adapter",
    Verdict.BASE_KNOWN: "the base model recites it as well, so the adapter is not to blame",
    Verdict.CERTIFIED: "every target token is over the line, and decoding reproduces it",
    Verdict.RECALLED: "greedy decoding gives it, in whatever written form, with tokens under the line",
    Verdict.EXTRACTABLE: "greedy decoding does not give it, but sampling as deployed does, at the stated chance",
    Verdict.NEAR_VERBATIM: "decoding gives it up to small edits, in each part that the base would not guess",
    Verdict.PARTIAL: "a stretch that the base would not guess is recalled, more than of the controls",
    Verdict.CLEAR: "not recalled here; read it beside the bound that the controls give",
}


GRAVITY = (
    Verdict.CERTIFIED,
    Verdict.RECALLED,
    Verdict.EXTRACTABLE,
    Verdict.NEAR_VERBATIM,
    Verdict.PARTIAL,
    Verdict.ERROR,
    Verdict.BASE_KNOWN,
    Verdict.CLEAR,
)
"""The verdicts, the gravest first."""

PLACES = {verdict: place for place, verdict in enumerate(GRAVITY)}
"""Each verdict's place in that order; the gravest has 0."""

RECITED = (Verdict.CERTIFIED, Verdict.RECALLED)
"""The verdicts of a snippet that greedy decoding gives."""

GIVEN = (*RECITED, Verdict.EXTRACTABLE, Verdict.NEAR_VERBATIM)
"""The verdicts of a snippet that an answer gives, greedy or sampled, in its words or nearly."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The stated bounds of the softer verdicts.

    Attributes:
        edit_distance: Largest edit distance that is near-verbatim, over the target's length, after folding.
        missed: Largest share of any stretch of `bits` surprise that a near-verbatim decode may have wrong.
        bits: Surprise under the base, in bits, that a recalled stretch needs to be `partial`, and a whole
            target needs so as not to be flagged as short, and to be found elsewhere or in another written form.
        false_discovery_rate: At which a recalled stretch (`partial`) must beat the controls.
        answer_tokens: Tokens that are decoded beyond the target's length, for words before it.
    """

    edit_distance: float = 0.1
    missed: float = 1 / 3
    bits: float = 20.0
    false_discovery_rate: float = 0.05
    answer_tokens: int = 16


@dataclass(frozen=True, slots=True)
class Match:
    """How a greedy decode compares with the target.

    Attributes:
        ids_equal: The generated token ids start with the target's.
        verbatim: The same, or the generated text starts with the target's text (other tokens, same text).
        elsewhere: The target stands in the generated text after other words.
        other_form: It stands there in another written form (case, spacing, dashes, quotes, grouping of digits).
        distance: Edits from the nearest part of the generated text to the target, both folded, over the target's
            length, in [0, 1].
        missed: The share of the target's worst stretch that is wrong, in [0, 1]; 0 if it was not asked for.
    """

    ids_equal: bool
    verbatim: bool
    elsewhere: bool = False
    other_form: bool = False
    distance: float = 0.0
    missed: float = 0.0


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The rule applied to one snippet's target tokens.

    Attributes:
        tokens: Number of target tokens.
        over_half: Tokens with p > 0.5.
        locked: Positions of the tokens with p > sigmoid(2ε).
        near: Positions of the tokens with 0.3 <= p <= 0.5, the ones that flip next.
        ties: Positions where the target shares the largest logit with another token.
        certified: Every token is locked.
        rank1: Every token is the one argmax.
        min_p: The smallest token probability, and
        min_p_at: its position.
        loss: Mean negative log probability, in nats.
        log_pz: Natural logarithm of the probability of the whole target.
        log10_n50: log10 of the samples for a 50 % chance of extraction.
        first_failing: First position that is not the one argmax; None if there is none.
        longest_run: Length of the longest run of consecutive argmax tokens, and
        longest_run_at: its first position.
        contradiction: First position where probability and rank contradict each other; None if there is none.
    """

    tokens: int
    over_half: int
    locked: tuple[int, ...]
    near: tuple[int, ...]
    ties: tuple[int, ...]
    certified: bool
    rank1: bool
    min_p: float
    min_p_at: int
    loss: float
    log_pz: float
    log10_n50: float
    first_failing: int | None
    longest_run: int
    longest_run_at: int
    contradiction: int | None


CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """Hits in tries, with an exact interval.

    Attributes:
        hits: How many.
        of: In how many.
        low: Lower end of the two-sided interval.
        high: Upper end of the two-sided interval.
        confidence: Its confidence.
    """

    hits: int
    of: int
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class TruePositiveRate:
    """How many candidates a score finds at a false-positive rate.

    Attributes:
        false_positive_rate: The share of the controls that may score higher than the threshold.
        rate: The candidates over it.
    """

    false_positive_rate: float
    rate: Rate


@dataclass(frozen=True, slots=True)
class Roc:
    """How well a score tells candidates from controls.

    Attributes:
        area: The area under the ROC curve, in [0, 1]; a half is chance.
        low: Lower end of its interval.
        high: Upper end.
        rates: True-positive rates at the false-positive rates that the controls are enough for.
    """

    area: float
    low: float
    high: float
    rates: tuple[TruePositiveRate, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """How the candidates stand out from the controls.

    Attributes:
        controls: Controls that they were compared with.
        rate: The false discovery rate at which a candidate is a finding.
        findings: Candidates that are, of those that are not recited or nearly so.
        least_q: The smallest false discovery rate at which one of them is a finding; 1 if there is none.
        line: The largest p-value of a finding; 0 if there is none.
        controls_over: Controls whose p-value against the others is no larger than that.
        roc: How well ΔL tells candidates from controls.
    """

    controls: int
    rate: float
    findings: int
    least_q: float
    line: float
    controls_over: int
    roc: Roc


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether the controls can stand for candidates that were never trained on.

    Attributes:
        statistic: Largest distance between the distributions of the base's loss on candidates and on controls
            (two-sample Kolmogorov-Smirnov); None where one of the two sets has no scores.
        p_value: Its p-value.
        reason: Why no rate may rest on the controls, "" if one may.
    """

    statistic: float | None
    p_value: float | None
    reason: str = ""


Decision = Literal["below", "above", "open"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a sequential audit is, and what it knows.

    Attributes:
        bound: The rate to decide about; None where only an interval is asked for.
        confidence: At which the interval holds at all times at once.
        of: Candidates in the set.
        taken: Candidates taken so far.
        hits: Recited ones among them.
        low: Lower end of the interval of the whole set's rate; errors count as not recited.
        high: Its upper end; errors count as recited.
        errors: Those taken that could not be scored.
        batch: Candidates taken between two looks at the result; the last batch may be smaller.
    """

    bound: float | None
    confidence: float
    of: int
    taken: int
    hits: int
    low: float
    high: float
    errors: int = 0
    batch: int | None = None

    @property
    def decision(self) -> Decision:
        """Return "below", "above" or "open"."""
        return decide(self.low, self.high, self.bound)

    @property
    def decided(self) -> bool:
        """Whether the rate is known to lie on one side of the bound."""
        return self.decision != "open"


def decide(low: float, high: float, bound: float | None) -> Decision:
    """Return on which side of a bound an interval lies."""
    if bound is None:
        return "open"
    if high <= bound:
        return "below"
    return "above" if low > bound else "open"


@dataclass(frozen=True, slots=True)
class StratumOutcome:
    """What is known of the leak rate of the candidates with one tag, of which not all were asked for.

    Attributes:
        tag: Their first tag, "" for those without one.
        of: Candidates; of a cluster of near-duplicates the one that ranks first.
        repeated: The others of the clusters, which were not asked for.
        ranked: Those asked for because they rank highest,
        ranked_hits: the recited ones of them,
        ranked_errors: and those that could not be scored.
        drawn: Those asked for at random among the others,
        hits: the recited ones of them,
        errors: and those that could not be scored.
        low: Lower end of the interval of the stratum's rate; errors count as not recited.
        high: Its upper end; errors count as recited.
        confidence: Of this interval alone, at all times at once.
    """

    tag: str
    of: int
    repeated: int
    ranked: int
    ranked_hits: int
    ranked_errors: int
    drawn: int
    hits: int
    errors: int
    low: float
    high: float
    confidence: float


class Group(StrEnum):
    """Which set a snippet is from; the `OWN` ones are what the uploader of an adapter sent with it."""

    CANDIDATES = "candidates"
    CONTROLS = "controls"
    OWN_CANDIDATES = "own_candidates"
    OWN_CONTROLS = "own_controls"

    @property
    def of_controls(self) -> bool:
        """Whether nothing was trained on its texts, as its owner says."""
        return self in (Group.CONTROLS, Group.OWN_CONTROLS)


class Flag(StrEnum):
    """What a reader must know beside a verdict."""

    SHORT = "short"
    BOUNDARY = "boundary"
    TIE = "tie"
    BORDERLINE = "borderline"
    ELSEWHERE = "elsewhere"
    OTHER_FORM = "other-form"
    RANKED = "ranked"
    NOT_DECODED = "not decoded"
    CHECKED = "checked"


FLAG_MEANINGS: dict[Flag, str] = {
    Flag.SHORT: "the base finds this target so likely that reciting it proves little",
    Flag.BOUNDARY: "the tokens of prefix and target are not the tokens of the whole text",
    Flag.TIE: "a target token shares the largest logit with another",
    Flag.BORDERLINE: "every token over one half, but not over the line with the engine's error",
    Flag.ELSEWHERE: "decoding gives it after other words",
    Flag.OTHER_FORM: "decoding gives it in another written form: case, spacing, dashes, quotes, grouping",
    Flag.RANKED: "asked for because it ranks high; those without this flag were drawn at random",
    Flag.NOT_DECODED: "its scores rule out that decoding matters, so it was not decoded",
    Flag.CHECKED: "its scores rule out that decoding matters; it was decoded as a check of that",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What is counted of a snippet once it is judged.

    Attributes:
        verdict: What the audit says of it.
        alarm: Why the engine contradicts itself on it, "" if it does not.
        flags: What a reader must know beside the verdict.
        tokens: Target tokens that were scored.
        over_half: Those with p > 0.5.
        delta_loss: Base loss minus adapter loss, in nats a token; None without scores.
        log10_pz: log10 of the probability of the whole target; None where that is 0, and without scores.
        run_bits: Surprise under the base of the longest stretch that only the adapter recalls, in bits.
        not_asked: Views that it could not be asked in.
        unknown_chance: Whether it may be extractable, and the scorer cannot tell.
        base_loss: The base's loss on the target, in nats a token; None without scores.
        tags: The candidate's labels.

    The numbers are rounded as a report gives them, so that a report's own numbers give its findings again.
    """

    verdict: Verdict
    alarm: str
    flags: tuple[Flag, ...]
    tokens: int
    over_half: int
    delta_loss: float | None
    log10_pz: float | None = None
    run_bits: float = 0.0
    unknown_chance: bool = False
    not_asked: tuple[str, ...] = ()
    base_loss: float | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """How often drawn answers gave a target, and how often they should.

    Attributes:
        answers: Answers drawn.
        seen: Those that begin with the target's tokens, which is what the prediction is of.
        seen_as_text: Those that begin with its text, in whatever tokens.
        expected: How many should; None where the probability is not known.
        interval: Between which numbers the seen ones should lie; None where the probability is not known.
    """

    answers: int
    seen: int
    seen_as_text: int
    expected: float | None
    interval: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class SnippetResult:
    """One snippet's evidence and verdict.

    Attributes:
        item: The candidate.
        group: Its set.
        verdict: What the audit says of it.
        alarm: Why the engine contradicts itself on it, "" if it does not.
        error: Why it could not be scored, "" if it was.
        score: The adapter's scores; None in case of an error, as are all that follow.
        base: The base's scores.
        rule: The rule on the adapter's scores.
        base_rule: The rule on the base's scores.
        match: The adapter's greedy decode against the target; None where it was not decoded.
        base_match: The base's decode against the target; None where its scores rule out that it recites.
        base_bits: Surprise of the target under the base, in bits.
        run_bits: Most surprise under the base of one stretch that only the adapter recalls, in bits.
        flags: What a reader must know beside the verdict.
        view: The way of asking that gave this verdict.
        views: Every way of asking: its name, verdict and min p (None in case of an error).
        not_asked: The ways that it could not be asked in: the shorter prefix is no text of those tokens.
        p_value: Against the controls; None where it was not compared.
        q_value: The smallest false discovery rate at which it is a finding; None where it was not compared.
        chance: The probability that one of the stated number of sampled answers is the target; None where the
            scorer cannot tell.
        chance_at_most: Under the stated chance, where the scorer can only tell that it is so.
        unknown_chance: Whether it may be extractable in a view or a split, and the scorer cannot tell. Not where
            greedy decoding gives it, or sampling in another view or split.
        sampled: Whether it is the stated chance or more.
        drawn: What drawn answers gave; None where none were drawn.
    """

    item: ScoreItem
    group: Group
    verdict: Verdict
    alarm: str = ""
    error: str = ""
    score: ItemScore | None = None
    base: ItemScore | None = None
    rule: RuleResult | None = None
    base_rule: RuleResult | None = None
    match: Match | None = None
    base_match: Match | None = None
    base_bits: float = 0.0
    run_bits: float = 0.0
    flags: tuple[Flag, ...] = ()
    view: str = "raw"
    views: tuple[tuple[str, Verdict, float | None], ...] = ()
    not_asked: tuple[str, ...] = ()
    p_value: float | None = None
    q_value: float | None = None
    chance: float | None = None
    chance_at_most: float | None = None
    unknown_chance: bool = False
    sampled: bool = False
    drawn: Drawn | None = None

    @property
    def delta_loss(self) -> float | None:
        """ΔL: base loss minus adapter loss on the target tokens, in nats a token; None without scores."""
        if self.rule is None or self.base_rule is None:
            return None
        return (self.rule.log_pz - self.base_rule.log_pz) / self.rule.tokens

    def judged(self) -> Judged:
        """Return what is counted of it."""
        judged = Judged(
            self.verdict,
            self.alarm,
            self.flags,
            0,
            0,
            None,
            not_asked=self.not_asked,
            tags=self.item.tags,
        )
        if self.rule is None or self.base_rule is None:
            return judged
        return replace(
            judged,
            tokens=self.rule.tokens,
            over_half=self.rule.over_half,
            delta_loss=None if self.delta_loss is None else coarse_nats(self.delta_loss),
            log10_pz=coarse_log10(self.rule.log_pz / math.log(10.0)),
            run_bits=coarse_bits(self.run_bits),
            unknown_chance=self.unknown_chance,
            base_loss=coarse_nats(self.base_rule.loss),
        )


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Snippets whose decode was ruled out by their scores, and what the check of that gave.

    Attributes:
        left_out: Those that were not decoded.
        checked: Those that were decoded as a check, drawn at random,
        found: and those of them that decoding gave, in whatever form or nearly.
        at_most: How many of those left out decoding would give: the upper end of the exact one-sided interval.
    """

    left_out: int
    checked: int
    found: int
    at_most: int


@dataclass(frozen=True, slots=True)
class SetSummary:
    """Counts over one set.

    Attributes:
        snippets: Snippets, the failed ones included.
        tokens: Target tokens of the scored ones.
        tokens_over_half: Those with p > 0.5.
        verdicts: Snippets by verdict, in the order of precedence.
        telling: Those among them whose target is not flagged as short.
        alarms: Snippets on which the engine contradicts itself.
        delta_loss: ΔL over all target tokens of the set, in nats a token; None if nothing was scored.
        recited: The rate of certified and recalled snippets among those that could be blamed on the adapter
            (neither failed nor known to the base).
        leaked: The same with extractable, near-verbatim and partial ones.
        not_asked: Snippets that could not be asked in a view, by its name.
        unknown_chances: Snippets that may be extractable: the scorer cannot tell.
        undecoded: Those whose decode was ruled out; None where there are none. The upper ends of the rates count
            as many of them as recited as the check allows.
    """

    snippets: int
    tokens: int
    tokens_over_half: int
    verdicts: dict[Verdict, int]
    telling: dict[Verdict, int]
    alarms: int
    delta_loss: float | None
    recited: Rate
    leaked: Rate
    unknown_chances: int = 0
    not_asked: dict[str, int] = field(default_factory=dict)
    undecoded: Undecoded | None = None


@dataclass(frozen=True, slots=True)
class SetSource:
    """Where a set came from.

    Attributes:
        name: File name, or how it was made.
        digest: sha256 of the file's bytes, or of what was made.
        bad_lines: Lines that were left out.
        generated: How it was made, "" if it was read.
    """

    name: str
    digest: str
    bad_lines: int = 0
    generated: str = ""

    @property
    def permuted(self) -> bool:
        """Whether it pairs prefixes with targets of other candidates, which were trained."""
        return self.generated.startswith("permutation")

    @property
    def synthetic(self) -> bool:
        """Whether its texts were drawn anew in the candidates' format."""
        return self.generated.startswith("synthesis")


EpsilonSource = Literal["engine", "option", "measured"]


@dataclass(frozen=True, slots=True)
class Epsilon:
    """The bound on the engine's per-logit error, and where it is from."""

    value: float
    source: EpsilonSource


@dataclass(frozen=True, slots=True)
class AuditResult:
    """One adapter's audit; of many snippets it holds the gravest, and the summaries count all.

    `by_tag` counts the candidates with each tag;
    `no_controls` counts the uploader's controls that share text with the operator's candidates; `system` and
    `template` are the secret texts of its framings; `checked_share` is the share of the candidates whose decode
    was ruled out that were decoded nevertheless; `strata` is what is known of each where not all were asked for.
    """

    adapter: AdapterVersion
    engine: EngineInfo
    epsilon: Epsilon
    bounds: Bounds
    seed: int
    confidence: float
    views: tuple[str, ...]
    sources: dict[Group, SetSource]
    snippets: tuple[SnippetResult, ...]
    started: str
    seconds: float
    summaries: dict[Group, SetSummary] = field(default_factory=dict)
    sequential: Outcome | None = None
    calibration: Calibration | None = None
    membership: Membership | None = None
    by_tag: dict[str, SetSummary] = field(default_factory=dict)
    no_controls: int = 0
    system: str | None = None
    template: str | None = None
    extraction: Extraction = field(default_factory=Extraction)
    checked_share: float = 1.0
    strata: tuple[StratumOutcome, ...] = ()

    def of(self, group: Group) -> tuple[SnippetResult, ...]:
        """Return the snippets of one set that were kept."""
        return tuple(snippet for snippet in self.snippets if snippet.group is group)
