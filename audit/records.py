"""The records of an audit: what it says of a snippet, of a set and of an adapter, and what that rests on."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from lorecall.audit.coarse import coarse_bits, coarse_log10, coarse_nats
from lorecall.audit.estimates import (
    Calibration,
    Membership,
    Outcome,
    Rate,
)
from lorecall.audit.extraction import Extraction
from lorecall.audit.scorer import AdapterVersion, EngineInfo, ItemScore, ScoreItem
from lorecall.audit.verdicts import (
    Bounds,
    Flag,
    Group,
    Verdict,
)


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
        high: Its upper end; errors count as recited, and of those left out as many as the check allows.
        confidence: Of this interval alone, at all times at once.
        left_out: Those asked for that were not decoded.
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
    left_out: int = 0


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
