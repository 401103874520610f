"""The reference scorer in whole audits: several framings and schemes over one model."""

from collections.abc import Sequence
from pathlib import Path

from lorecall.adapters.peft_format.companions import template_digest
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.judging.framed_judges import BaseCaches
from lorecall.audit.judging.views import make_views
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ItemScore, Message, ScoreItem
from lorecall.audit.scorers.transformers_scorer import BASE, TransformersScorer
from lorecall.audit.verdicts import Group

from tests.audit.conftest import as_set
from tests.tiny import build_tiny_adapter, build_tiny_base

ITEMS = (ScoreItem("1", "To be, or", " not to be"), ScoreItem("2", "outrageous", " 555"))


def test_framings_and_schemes_share_the_model_and_its_adapters(tmp_path: Path) -> None:
    """Raw and chat, adapter and base, under a scheme: each score is that of a scorer of its own."""
    base = build_tiny_base(tmp_path / "base")
    adapters = {"a": build_tiny_adapter(tmp_path / "a", base)}
    wish = SamplingWish(temperature=0.7, top_k=50)
    settings = AuditSettings(views=make_views(["raw", "chat"], None, []), extraction=wish)
    scorer = TransformersScorer(base, adapters)
    result = run_audit(scorer, "a", {Group.CANDIDATES: as_set(ITEMS)}, settings)
    for snippet in result.snippets:
        assert snippet.chance is not None
        assert [view for view, _, _ in snippet.views] == ["raw", "chat"]
    fresh = TransformersScorer(base, adapters)
    for model in ("a", "base", "a"):
        expected = TransformersScorer(base, adapters).framed("chat", None).score(model, ITEMS)
        assert fresh.framed("chat", None).score(model, ITEMS) == expected
    assert fresh.score("a", ITEMS) != fresh.score("base", ITEMS)


def test_a_chat_that_the_template_refuses_is_an_error_of_its_own(tmp_path: Path) -> None:
    """The others are scored; the template's own words are nowhere."""
    base = build_tiny_base(tmp_path / "base")
    scorer = TransformersScorer(base, {})
    scorer._tokenizer.chat_template = "{{ raise_exception('private words') }}"
    refused = ScoreItem("r", "", " not to be", messages=(Message("user", "To be, or"),))
    first, second = scorer.score("base", [refused, ITEMS[0]])
    assert first.error == "the text cannot be framed: ValueError"
    assert not second.error


def test_an_adapters_own_template_frames_it_and_its_base(tmp_path: Path) -> None:
    """Adapter and base are asked for one text, as its requests are rendered; the report names the template.

    The template of one adapter is nothing to another, nor to the base of another's audit.
    """
    base = build_tiny_base(tmp_path / "base")
    adapters = {name: build_tiny_adapter(tmp_path / name, base) for name in ("own", "plain")}
    template = "OWN{{ messages[0].content }}>"
    (adapters["own"] / "chat_template.jinja").write_text(template)
    asked: list[tuple[str, tuple[int, ...]]] = []

    class Spy(TransformersScorer):
        def score(self, model: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
            found = super().score(model, items)
            asked.extend((model, score.prefix_ids) for score in found)
            return found

    scorer = Spy(base, adapters)
    settings = AuditSettings(views=make_views(["chat"], None, []), epsilon=0.0)
    bases = BaseCaches(scorer)
    texts = {}
    for name in ("own", "plain"):
        asked.clear()
        result = run_audit(scorer, name, {Group.CANDIDATES: as_set(ITEMS[:1])}, settings, bases=bases)
        report = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"salt"))
        assert report.adapter.chat_template == (template_digest(template) if name == "own" else None)
        assert {model for model, _ in asked} == {name, BASE}
        (texts[name],) = {"".join(scorer.token_texts(ids)) for _, ids in asked}
    assert texts["own"] == "OWNTo be, or>"
    assert texts["plain"] != texts["own"]
