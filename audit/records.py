"""The records of an audit: one per snippet, one per set, one per adapter."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from lorecall.audit.judging.rule import RuleResult
from lorecall.audit.judging.verdict import Bounds, Match, Verdict
from lorecall.audit.scorer import AdapterVersion, Decoded, EngineInfo, ItemScore, ScoreItem
from lorecall.audit.stats.intervals import Rate, clopper_pearson

if TYPE_CHECKING:
    from lorecall.audit.stats.sequential import Outcome


class Judged(Protocol):
    """What counts of a snippet once it is judged; see `SnippetResult` for the meanings."""

    @property
    def verdict(self) -> Verdict: ...  # noqa: D102
    @property
    def alarm(self) -> str: ...  # noqa: D102
    @property
    def flags(self) -> tuple["Flag", ...]: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def over_half(self) -> int: ...  # noqa: D102
    @property
    def delta_loss(self) -> float | None: ...  # noqa: D102


RECITED = (Verdict.CERTIFIED, Verdict.RECALLED)


class Group(StrEnum):
    """Which set a snippet is from."""

    CANDIDATES = "candidates"
    CONTROLS = "controls"


class Flag(StrEnum):
    """What a reader must know beside a verdict."""

    SHORT = "short"  # the base finds the target so likely that reciting it proves little
    BOUNDARY = "boundary"  # the tokens of prefix and target are not the tokens of the whole text
    TIE = "tie"  # a target token shares the largest logit
    BORDERLINE = "borderline"  # every token over one half, not every one over the measured line


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
        decoded: The adapter's greedy decode.
        match: That decode against the target.
        base_match: The base's decode against the target; None where its scores rule out that it recites.
        base_bits: Surprise of the target under the base, in bits.
        run_bits: Most surprise under the base of one stretch that only the adapter recalls, in bits.
        flags: What a reader must know beside the verdict.
        view: The way of asking that gave this verdict.
        views: Every way of asking: its name, verdict and min p (None in case of an error).
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
    decoded: Decoded | None = None
    match: Match | None = None
    base_match: Match | None = None
    base_bits: float = 0.0
    run_bits: float = 0.0
    flags: tuple[Flag, ...] = ()
    view: str = "raw"
    views: tuple[tuple[str, Verdict, float | None], ...] = ()

    @property
    def tokens(self) -> int:
        """Target tokens that were scored."""
        return 0 if self.rule is None else self.rule.tokens

    @property
    def over_half(self) -> int:
        """Target tokens with p > 0.5."""
        return 0 if self.rule is None else self.rule.over_half

    @property
    def delta_loss(self) -> float | None:
        """ΔL: base loss minus adapter loss on the target tokens, in nats a token; None without scores."""
        if self.rule is None or self.base_rule is None:
            return None
        return (self.rule.log_pz - self.base_rule.log_pz) / self.rule.tokens


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
        leaked: The same with near-verbatim and partial ones.
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


class Tally:
    """Counts the snippets of one set as they come, and keeps none of them."""

    def __init__(self) -> None:
        self._verdicts: Counter[Verdict] = Counter()
        self._telling: Counter[Verdict] = Counter()
        self._tokens = self._over_half = self._alarms = 0
        self._gained = 0.0

    def add(self, snippet: Judged) -> None:
        """Count one snippet."""
        self._verdicts[snippet.verdict] += 1
        self._telling[snippet.verdict] += Flag.SHORT not in snippet.flags
        self._alarms += bool(snippet.alarm)
        self._tokens += snippet.tokens
        self._over_half += snippet.over_half
        self._gained += (snippet.delta_loss or 0.0) * snippet.tokens

    def summary(self, confidence: float) -> SetSummary:
        """Return the counts so far, with intervals of the confidence given."""
        verdicts = self._verdicts
        total = verdicts.total()
        blamable = total - verdicts[Verdict.ERROR] - verdicts[Verdict.BASE_KNOWN]
        recited = sum(verdicts[v] for v in RECITED)
        return SetSummary(
            snippets=total,
            tokens=self._tokens,
            tokens_over_half=self._over_half,
            verdicts={verdict: verdicts[verdict] for verdict in Verdict},
            telling={verdict: self._telling[verdict] for verdict in Verdict},
            alarms=self._alarms,
            delta_loss=self._gained / self._tokens if self._tokens else None,
            recited=clopper_pearson(recited, blamable, confidence),
            leaked=clopper_pearson(blamable - verdicts[Verdict.CLEAR], blamable, confidence),
        )


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


@dataclass(frozen=True, slots=True)
class Epsilon:
    """The bound on the engine's per-logit error, and where it is from: "engine", "option" or "measured"."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class AuditResult:
    """One adapter's audit; of many snippets it holds the gravest, and the summaries count all."""

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
    sequential: "Outcome | None" = None

    def of(self, group: Group) -> tuple[SnippetResult, ...]:
        """Return the snippets of one set that were kept."""
        return tuple(snippet for snippet in self.snippets if snippet.group is group)

    @property
    def alarms(self) -> tuple[SnippetResult, ...]:
        """The snippets, of those that were kept, on which the engine contradicts itself."""
        return tuple(snippet for snippet in self.snippets if snippet.alarm)

    @property
    def omitted(self) -> dict[Group, int]:
        """How many snippets of each set were counted, but not kept."""
        return {group: summary.snippets - len(self.of(group)) for group, summary in self.summaries.items()}
