"""The reference scorer in whole audits: several framings and schemes over one model."""

from pathlib import Path

from lorecall.audit.extraction import SamplingWish
from lorecall.audit.judging.views import make_views
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.scorers.transformers_scorer import TransformersScorer
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
