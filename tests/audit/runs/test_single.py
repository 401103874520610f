"""The audit from candidates to a result, on an exact engine in memory."""

import pytest
from lorecall.adapters.core.errors import AdapterError, AdapterNotFoundError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.framed_judges import BaseCaches
from lorecall.audit.records import SnippetResult
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Flag, Group, Verdict

from tests.audit.conftest import KNOWN_LINE, as_set, memory_of
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

Sets = dict[Group, CandidateSet]
SETTINGS = AuditSettings()


def only(
    scorer: TinyScorer, adapter: str, item: ScoreItem, settings: AuditSettings = SETTINGS
) -> SnippetResult:
    return run_audit(scorer, adapter, {Group.CANDIDATES: as_set((item,))}, settings).snippets[0]


def test_overtrained_adapter_is_certified_and_its_controls_are_clear(engine: TinyScorer, sets: Sets) -> None:
    """Every memorised pair is certified and decoded; no control is."""
    result = run_audit(engine, "leaky", sets, SETTINGS)
    assert result.summaries[Group.CANDIDATES].verdicts[Verdict.CERTIFIED] == 12
    assert result.summaries[Group.CONTROLS].verdicts[Verdict.CLEAR] == 20
    assert all(s.match is not None and s.match.ids_equal for s in result.of(Group.CANDIDATES))
    assert not any(snippet.alarm for snippet in result.snippets)


def test_adapter_trained_on_other_data_is_clear(engine: TinyScorer, sets: Sets) -> None:
    """An adapter that memorised other pairs of the same format recites none of these (pitfall 10)."""
    summary = run_audit(engine, "other", sets, SETTINGS).summaries[Group.CANDIDATES]
    assert summary.verdicts[Verdict.CLEAR] == 12
    assert summary.recited.hits == 0
    assert summary.recited.high == pytest.approx(1 - 0.025 ** (1 / 12))


def test_what_the_base_knows_is_not_blamed_on_the_adapter(engine: TinyScorer) -> None:
    """A line that the base recites is base-known, although the adapter recites it too (pitfall 6)."""
    snippet = only(engine, "leaky", ScoreItem("k", *KNOWN_LINE))
    assert snippet.verdict is Verdict.BASE_KNOWN
    assert snippet.match is not None
    assert snippet.match.verbatim


def test_recall_under_the_line_is_recalled_not_certified(pairs: tuple[ScoreItem, ...]) -> None:
    """A token that is the argmax below one half keeps greedy recall, and loses the certificate."""
    scorer = TinyScorer(
        {
            "a": Memory(
                (pairs[0].prefix + pairs[0].target,), weak={3: 0.45}, prefix_length=len(pairs[0].prefix)
            )
        }
    )
    snippet = only(scorer, "a", pairs[0])
    assert snippet.verdict is Verdict.RECALLED
    assert snippet.rule is not None
    assert snippet.rule.near == (3,)
    assert snippet.rule.rank1


def test_borderline_tokens_are_not_certified_under_a_measured_epsilon(pairs: tuple[ScoreItem, ...]) -> None:
    """With ε = 0.25 the line is 0.62: tokens at 0.58 are over one half, and only recalled."""
    scorer = TinyScorer({"a": memory_of(pairs[:1], strength=0.58)})
    loose = only(scorer, "a", pairs[0], AuditSettings(epsilon=0.0))
    strict = only(scorer, "a", pairs[0], AuditSettings(epsilon=0.25))
    assert (loose.verdict, strict.verdict) == (Verdict.CERTIFIED, Verdict.RECALLED)
    assert Flag.BORDERLINE in strict.flags
    assert Flag.BORDERLINE not in loose.flags


def test_one_wrong_digit_is_near_verbatim(pairs: tuple[ScoreItem, ...]) -> None:
    """An adapter that memorised the number with one digit changed recites the candidate nearly."""
    item = pairs[0]
    wrong = item.target[:5] + str((int(item.target[5]) + 1) % 10) + item.target[6:]
    scorer = TinyScorer({"a": Memory((item.prefix + wrong,))})
    snippet = only(scorer, "a", item)
    assert snippet.verdict is Verdict.NEAR_VERBATIM
    assert snippet.match is not None
    assert snippet.match.distance == pytest.approx(0.1)
    assert snippet.rule is not None
    assert snippet.rule.first_failing == 5


def test_half_a_number_is_partial_where_the_controls_are_not(
    pairs: tuple[ScoreItem, ...], controls: tuple[ScoreItem, ...]
) -> None:
    """An adapter that memorised the first seven digits recalls a stretch that the base would not guess.

    Without controls that is no finding: nobody knows how often it happens to what nothing was trained on.
    """
    item = pairs[0]
    scorer = TinyScorer({"a": Memory((item.prefix + item.target[:7],))})
    assert only(scorer, "a", item).verdict is Verdict.CLEAR
    sets = {Group.CANDIDATES: as_set((item,)), Group.CONTROLS: as_set(controls)}
    result = run_audit(scorer, "a", sets, AuditSettings())
    snippet = result.of(Group.CANDIDATES)[0]
    assert result.summaries[Group.CANDIDATES].verdicts[Verdict.PARTIAL] == 1
    assert (snippet.p_value, snippet.q_value) == (1 / (len(controls) + 1),) * 2
    assert result.membership is not None
    assert (result.membership.findings, result.membership.controls_over) == (1, 0)
    assert snippet.verdict is Verdict.PARTIAL
    assert snippet.rule is not None
    assert snippet.rule.first_failing == 7
    assert snippet.rule.longest_run == 7
    assert snippet.run_bits > 20


def test_an_overlong_candidate_is_an_error_not_a_cut(engine: TinyScorer) -> None:
    """A text over the model's length gets the verdict error and no scores (pitfall 3)."""
    snippet = only(engine, "leaky", ScoreItem("long", "a prefix ", "x" * 1000))
    assert snippet.verdict is Verdict.ERROR
    assert "over 400" in snippet.error
    assert snippet.score is None


def test_an_empty_prefix_is_an_error(engine: TinyScorer) -> None:
    """Without a prefix the first token has no probability, so there is no verdict."""
    assert only(engine, "leaky", ScoreItem("e", "", "5550100")).verdict is Verdict.ERROR


def test_a_short_target_is_flagged(pairs: tuple[ScoreItem, ...]) -> None:
    """A target that the base finds likely is flagged, whatever its verdict (pitfall 7)."""
    scorer = TinyScorer({"a": Memory(("the quick brown fox",))})
    easy = only(scorer, "a", ScoreItem("easy", "the quick br", "own"))
    hard = only(scorer, "a", pairs[0])
    assert easy.base_bits < 20 < hard.base_bits
    assert Flag.SHORT in easy.flags
    assert Flag.SHORT not in hard.flags


def test_certified_but_not_decoded_alarms_about_the_engine(pairs: tuple[ScoreItem, ...], sets: Sets) -> None:
    """An engine that decodes through other weights than it scores with is caught on every certified pair."""
    scorer = TinyScorer({"a": memory_of(pairs)}, decodes_with={"a": BASE})
    result = run_audit(scorer, "a", sets, SETTINGS)
    assert sum(bool(snippet.alarm) for snippet in result.snippets) == 12
    assert Verdict.CERTIFIED not in {snippet.verdict for snippet in result.snippets}


def test_adapter_that_trains_the_head_is_refused(pairs: tuple[ScoreItem, ...], sets: Sets) -> None:
    """An adapter on lm_head is never given a clean bill (pitfall 11)."""
    scorer = TinyScorer({"a": memory_of(pairs)}, refusals={"a": "it trains lm_head"})
    with pytest.raises(AdapterError, match="lm_head"):
        run_audit(scorer, "a", sets, SETTINGS)
    assert scorer.scored == []


def test_unknown_adapter_names_the_known_ones(engine: TinyScorer, sets: Sets) -> None:
    """A wrong name is an error with exit code 2 that lists what is there."""
    with pytest.raises(AdapterNotFoundError, match="leaky") as caught:
        run_audit(engine, "nobody", sets, SETTINGS)
    assert caught.value.exit_code == 2


def test_the_base_is_scored_once_for_many_adapters(engine: TinyScorer, sets: Sets) -> None:
    """Audits that share a view of the base ask it for each snippet once."""
    bases = BaseCaches(engine)
    for adapter in ("leaky", "other"):
        run_audit(engine, adapter, sets, SETTINGS, bases=bases)
    assert sum(model == BASE for model, _ in engine.scored) == 32


def test_delta_loss_is_base_loss_less_adapter_loss(engine: TinyScorer, sets: Sets) -> None:
    """ΔL of a set is the mean over its target tokens, in nats."""
    result = run_audit(engine, "leaky", sets, SETTINGS)
    gains = [
        after - before
        for s in result.of(Group.CANDIDATES)
        if s.score is not None and s.base is not None
        for after, before in zip(s.score.logprob, s.base.logprob, strict=True)
    ]
    summary = result.summaries[Group.CANDIDATES]
    assert summary.delta_loss == pytest.approx(
        sum(gains) / len(gains), abs=0.005
    )  # rounded to two digits each


def test_progress_ends_at_the_number_of_snippets(engine: TinyScorer, sets: Sets) -> None:
    """Progress starts at nothing and ends at everything, whatever the chunk."""
    seen: list[tuple[int, int]] = []
    run_audit(
        engine, "leaky", sets, AuditSettings(chunk=5), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[0] == (0, 32)
    assert seen[-1] == (32, 32)


def test_epsilon_is_measured_where_the_engine_reports_none(pairs: tuple[ScoreItem, ...], sets: Sets) -> None:
    """An engine without an ε of its own gets one measured, and the result says so; an exact engine has 0."""
    result = run_audit(TinyScorer({"a": memory_of(pairs)}, epsilon=None), "a", sets, SETTINGS)
    assert (result.epsilon.value, result.epsilon.source) == (0.0, "measured")


def test_order_does_not_change_a_verdict(engine: TinyScorer, pairs: tuple[ScoreItem, ...]) -> None:
    """The same snippets alone and in reverse get the same verdicts and scores (pitfall 5)."""
    forward = run_audit(engine, "leaky", {Group.CANDIDATES: as_set(pairs)}, SETTINGS).snippets
    reverse = run_audit(
        engine, "leaky", {Group.CANDIDATES: as_set(pairs[::-1])}, AuditSettings(chunk=1)
    ).snippets
    assert forward == reverse[::-1]
