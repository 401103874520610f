"""Judge snippets: score them through adapter and base, decode them, and decide the verdict."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lorecall.audit.coarse import coarse_chance
from lorecall.audit.extraction import Extraction
from lorecall.audit.judging.decoding import LEAST_RECALLED, Check, recalled_share, within_reach
from lorecall.audit.judging.match import character_surprise, compare, gives, is_near, missed_share
from lorecall.audit.judging.rule import apply_rule, chance_of_extraction, log_pz_at_most, sampled_log_pz
from lorecall.audit.judging.verdict import Evidence, bits, decide, greedy, surprising_run_bits
from lorecall.audit.judging.views import merged_flags, open_chance, severity
from lorecall.audit.records import Bounds, Flag, Group, Match, RuleResult, SnippetResult, Verdict
from lorecall.audit.scorer import Decoded, ItemScore, ScoreItem, Scorer
from lorecall.audit.scorers.base_cache import BaseCache


@dataclass(frozen=True, slots=True)
class _Scored:
    """A snippet with its scores through the adapter and through the base."""

    group: Group
    item: ScoreItem
    score: ItemScore
    base: ItemScore
    rule: RuleResult
    base_rule: RuleResult
    ruled_out: bool
    decoded: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges snippets of one adapter, in one framing.

    Attributes:
        scorer: The engine.
        model: The adapter's served name.
        base: The base's scores and decodes of the same snippets.
        epsilon: Bound on the engine's per-logit error.
        bounds: The bounds of the softer verdicts.
        extraction: What is extractable by sampling.
        check: Which of the candidates whose decode their scores rule out are decoded nevertheless. What is no
            candidate is always decoded.
    """

    scorer: Scorer
    model: str
    base: BaseCache
    epsilon: float
    bounds: Bounds
    extraction: Extraction = field(default_factory=Extraction)
    check: Check = field(default_factory=Check)

    def judge(self, work: Sequence[tuple[Group, ScoreItem]]) -> list[SnippetResult]:
        """Score, decode and judge some snippets; the results are in the order given.

        A text that has two splits into tokens is judged in both; the gravest verdict counts.
        """
        items = [item for _, item in work]
        pairs = zip(self.scorer.score(self.model, items), self.base.score(items), strict=True)
        scored = [
            [self._scored(group, item, split, same_split(base, split)) for split in score.splits]
            for (group, item), (score, base) in zip(work, pairs, strict=True)
        ]
        good = [entry for entries in scored for entry in entries if isinstance(entry, _Scored)]
        judged = self._judge(good, self._decode(good))
        results = [
            [next(judged) if isinstance(entry, _Scored) else entry for entry in entries] for entries in scored
        ]
        return [self._gravest(splits) for splits in results]

    @staticmethod
    def _gravest(splits: Sequence[SnippetResult]) -> SnippetResult:
        alarm = next((result.alarm for result in splits if result.alarm), "")
        worst = min(splits, key=severity)
        return dataclasses.replace(
            worst,
            alarm=alarm,
            flags=merged_flags(worst, splits),
            unknown_chance=open_chance(worst, splits),
        )

    def _chance(self, score: ItemScore) -> float | None:
        log_pz = sampled_log_pz(score, self.extraction.sampling)
        return None if log_pz is None else chance_of_extraction(log_pz, self.extraction.samples)

    def _at_most(self, score: ItemScore) -> float | None:
        """Return what a chance that the scorer cannot tell is at most, in two digits; None if over the line."""
        most = chance_of_extraction(log_pz_at_most(score, self.extraction.sampling), self.extraction.samples)
        rounded = coarse_chance(most, over=True)
        return rounded if rounded < self.extraction.chance else None

    def _extractable(self, chance: float | None) -> bool:
        return chance is not None and chance >= self.extraction.chance

    def _scored(
        self, group: Group, item: ScoreItem, score: ItemScore, base: ItemScore
    ) -> _Scored | SnippetResult:
        error = score_error(score) or score_error(base)
        if error:
            return SnippetResult(item, group, Verdict.ERROR, error=error)
        rule, base_rule = apply_rule(score, self.epsilon), apply_rule(base, self.epsilon)
        ruled_out = self._rules_out(group, score, base, rule)
        decoded = not ruled_out or self.check.draws(item.id)
        return _Scored(group, item, score, base, rule, base_rule, ruled_out, decoded)

    def _rules_out(self, group: Group, score: ItemScore, base: ItemScore, rule: RuleResult) -> bool:
        """Return whether the scores rule out that the decode matters; never where all are decoded."""
        if self.check.share >= 1.0 or group is not Group.CANDIDATES or rule.contradiction is not None:
            return False
        if self._extractable(self._chance(score)):
            return False
        return recalled_share(score, base, self.epsilon) < LEAST_RECALLED

    def _decode(self, scored: Sequence[_Scored]) -> list[Decoded | None]:
        """Return the decode of each, None where it is left out."""
        asked = [e for e in scored if e.decoded]
        prompts = [(e.score.prefix_ids, self._budget(e.score)) for e in asked]
        answers = iter(self.scorer.decode(self.model, prompts) if prompts else ())
        return [next(answers) if e.decoded else None for e in scored]

    def _budget(self, score: ItemScore) -> int:
        return len(score.target_ids) + self.bounds.answer_tokens

    def _compared(self, entry: _Scored, score: ItemScore, decoded: Decoded) -> Match:
        """Compare a decode with the target; where it is near, also how much it misses."""
        long = bits(entry.base.logprob) >= self.bounds.bits
        match = compare(score, entry.item.target, decoded, anywhere=long)
        if match.verbatim or not match.distance or not is_near(match, self.bounds):
            return match
        texts = self.scorer.token_texts(entry.base.target_ids)
        surprise = character_surprise(entry.item.target, texts, entry.base.logprob)
        missed = missed_share(entry.item.target, decoded.text, surprise, self.bounds.bits)
        return dataclasses.replace(match, missed=missed)

    def _judge(self, scored: Sequence[_Scored], decoded: Sequence[Decoded | None]) -> Iterator[SnippetResult]:
        matches = [
            None if decode is None else self._compared(e, e.score, decode)
            for e, decode in zip(scored, decoded, strict=True)
        ]
        wanted = [
            entry
            for entry, match in zip(scored, matches, strict=True)
            if gives(match, bits(entry.base.logprob), self.bounds)
            or is_near(match, self.bounds)
            or may_recite(entry.base, self.epsilon)
        ]
        base_decodes = self.base.decode([(e.base.prefix_ids, self._budget(e.base)) for e in wanted])
        base_matches = {
            id(entry): self._compared(entry, entry.base, decode)
            for entry, decode in zip(wanted, base_decodes, strict=True)
        }
        for entry, match in zip(scored, matches, strict=True):
            chance = self._chance(entry.score)
            evidence = Evidence(
                adapter=entry.rule,
                match=match,
                base_match=base_matches.get(id(entry)),
                base_bits=bits(entry.base.logprob),
                run_bits=surprising_run_bits(entry.score, entry.base),
                sampled=self._extractable(chance),
                base_sampled=self._extractable(self._chance(entry.base)),
            )
            decision = decide(evidence, self.bounds)
            at_most = self._at_most(entry.score) if chance is None else None
            yield SnippetResult(
                item=entry.item,
                group=entry.group,
                verdict=decision.verdict,
                alarm=decision.alarm,
                score=entry.score,
                base=entry.base,
                rule=entry.rule,
                base_rule=entry.base_rule,
                match=match,
                base_match=evidence.base_match,
                base_bits=evidence.base_bits,
                run_bits=evidence.run_bits,
                flags=(*flags_of(entry.score, evidence, decision.verdict, self.bounds), *_decoding(entry)),
                chance=chance,
                sampled=evidence.sampled,
                chance_at_most=at_most,
                unknown_chance=chance is None and at_most is None and not greedy(evidence, self.bounds),
            )


def same_split(base: ItemScore, score: ItemScore) -> ItemScore:
    """Return the base's scores of the same split of the text, else of the one in which it recalls the most."""

    def ids(one: ItemScore) -> tuple[tuple[int, ...], ...]:
        return (one.prefix_ids, one.target_ids)

    return next((one for one in base.splits if ids(one) == ids(score)), base)


def score_error(score: ItemScore) -> str:
    """Return why an item's scores cannot be used, "" if they can."""
    if score.error:
        return score.error
    if not score.target_ids:
        return "no target tokens"
    if not score.prefix_ids:
        return "no prefix tokens, so the first target token has no probability"
    return ""


def may_recite(score: ItemScore, epsilon: float) -> bool:
    """Return whether decoding could give the target: no token trails the argmax by more than 2ε in logits."""
    return all(within_reach(score, epsilon))


def _decoding(entry: _Scored) -> tuple[Flag, ...]:
    if not entry.ruled_out:
        return ()
    return (Flag.CHECKED if entry.decoded else Flag.NOT_DECODED,)


def flags_of(score: ItemScore, evidence: Evidence, verdict: Verdict, bounds: Bounds) -> tuple[Flag, ...]:
    """Return what a reader must know beside the verdict."""
    rule, match = evidence.adapter, evidence.match
    if rule is None:
        return ()
    recalled = verdict is Verdict.RECALLED
    conditions = {
        Flag.SHORT: evidence.base_bits < bounds.bits,
        Flag.BOUNDARY: not score.boundary_exact,
        Flag.TIE: bool(rule.ties),
        Flag.BORDERLINE: rule.over_half == rule.tokens and not rule.certified,
        Flag.ELSEWHERE: recalled and match is not None and match.elsewhere,
        Flag.OTHER_FORM: recalled and match is not None and match.other_form,
    }
    return tuple(flag for flag, holds in conditions.items() if holds)
