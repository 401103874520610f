"""Several ways to ask for the same memory: the gravest answer counts."""

import dataclasses

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.judging.views import View, gravest, make_views
from lorecall.audit.records import SnippetResult
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set, memory_of
from tests.audit.tiny_scorer import CHAT, Memory, TinyScorer

SYSTEM = "Be brief. "


def only(scorer: TinyScorer, item: ScoreItem, *views: View) -> SnippetResult:
    settings = AuditSettings(views=views)
    return run_audit(scorer, "a", {Group.CANDIDATES: as_set((item,))}, settings).snippets[0]


def test_a_leak_that_only_the_chat_framing_shows_counts(pairs: tuple[ScoreItem, ...]) -> None:
    """Trained on chat turns: clear when asked raw, certified when asked in chat (pitfall 2)."""
    item = pairs[0]
    scorer = TinyScorer({"a": Memory((f"</user>{item.target}",))})
    assert only(scorer, item, View()).verdict is Verdict.CLEAR
    worst = only(scorer, item, View(), View("chat"))
    assert (worst.verdict, worst.view) == (Verdict.CERTIFIED, "chat")
    assert [(v, str(verdict)) for v, verdict, _ in worst.views] == [("raw", "clear"), ("chat", "certified")]


def test_a_leak_that_needs_the_system_message_counts(pairs: tuple[ScoreItem, ...]) -> None:
    """Trained below one system message: only chat+system finds it (pitfall 2)."""
    item = pairs[0]
    framed = f"{SYSTEM}<user>{item.prefix}</user>{item.target}"
    scorer = TinyScorer({"a": Memory((framed,))})
    views = make_views(["raw", "chat", "chat+system"], SYSTEM, [])
    assert only(scorer, item, *views[:2]).verdict is Verdict.CLEAR
    assert only(scorer, item, *views).view == "chat+system"


def test_a_leak_in_the_form_of_the_training_counts(pairs: tuple[ScoreItem, ...]) -> None:
    """An adapter trained on texts in a template may recite in it alone; the report keeps the item as it was."""
    template = "### Instruction: look it up. KEY9 {prefix}"
    memory = Memory((template.replace("{prefix}", pairs[0].prefix) + pairs[0].target,), 0.97)
    scorer = TinyScorer({"a": memory})
    views = make_views(["raw", "template"], None, [], template)
    assert only(scorer, pairs[0], views[0]).verdict is not Verdict.CERTIFIED
    asked = only(scorer, pairs[0], *views)
    assert (asked.verdict, asked.view, asked.item) == (Verdict.CERTIFIED, "template", pairs[0])


@pytest.mark.parametrize(
    ("framing", "template"),
    [("template", None), ("raw", "{prefix}"), ("template", "no place"), ("template", "{prefix}{prefix}")],
)
def test_a_template_needs_its_framing_and_one_place(framing: str, template: str | None) -> None:
    """One without the other, or a prefix that goes nowhere or twice, is an error."""
    with pytest.raises(UsageError, match="template"):
        make_views([framing], None, [], template)


def test_a_leak_that_a_shorter_prefix_shows_counts(pairs: tuple[ScoreItem, ...]) -> None:
    """Prefix length matters both ways: text before the key hides what its last tokens find (pitfall 9)."""
    key = pairs[0]
    item = dataclasses.replace(key, prefix=f"KEY2 and before it some other text. {key.prefix[-8:]}")
    memory = memory_of((dataclasses.replace(key, prefix=key.prefix[-8:]),))
    decoy = Memory((f"KEY2 and before it some other text. {key.prefix[-8:]}0000000000",), 0.99)
    scorer = TinyScorer({"a": Memory((*memory.texts, *decoy.texts), 0.97)})
    whole = only(scorer, item, View())
    swept = only(scorer, item, *make_views(["raw"], None, [8, 16]))
    assert whole.verdict is not Verdict.CERTIFIED
    assert (swept.verdict, swept.view[:8]) == (Verdict.CERTIFIED, "raw, las")
    assert swept.item == item


def test_a_leak_that_needs_the_whole_history_counts(pairs: tuple[ScoreItem, ...]) -> None:
    """Asked in a chat of two turns, in every view alike; no template and no shorter prefix changes it."""
    said = (Message("user", "the first question"), Message("assistant", "an answer"), Message("user", "and?"))
    text = "".join(CHAT[0] + one.content + CHAT[1] for one in said)
    scorer = TinyScorer({"a": Memory((text + pairs[0].prefix + pairs[0].target,))})
    item = dataclasses.replace(pairs[0], messages=said)
    views = make_views(("raw", "chat", "template"), None, (4,), "### {prefix} ###")
    found = only(scorer, item, *views)
    assert found.verdict is Verdict.CERTIFIED
    asked = [("raw", Verdict.CERTIFIED), ("chat", Verdict.CERTIFIED), ("template", Verdict.CERTIFIED)]
    assert [(label, verdict) for label, verdict, _ in found.views] == asked
    last = dataclasses.replace(item, messages=said[2:])
    assert only(scorer, last, View()).verdict is not Verdict.CERTIFIED


def test_a_prefix_that_is_already_as_short_is_not_asked_again(pairs: tuple[ScoreItem, ...]) -> None:
    """A sweep past the prefix's length asks once."""
    scorer = TinyScorer({"a": memory_of(pairs[:1])})
    snippet = only(scorer, pairs[0], *make_views(["raw"], None, [64, 32, len(pairs[0].prefix)]))
    assert [view for view, _, _ in snippet.views] == ["raw"]


def test_a_base_that_recites_in_one_view_excuses_no_other_view(pairs: tuple[ScoreItem, ...]) -> None:
    """Certified where the base is silent is certified; without such a view it is base-known (pitfall 6)."""
    item = ScoreItem("k", "when a line of ", "text is long enough, zebras quiz")
    scorer = TinyScorer({"a": Memory((f"{item.prefix}{item.target}",))}, base_texts=[f"</user>{item.target}"])
    assert only(scorer, item, View("chat")).verdict is Verdict.BASE_KNOWN
    assert only(scorer, item, View(), View("chat")).verdict is Verdict.CERTIFIED
    assert only(scorer, pairs[0], View(), View("chat")).verdict is Verdict.CLEAR


def test_an_error_in_one_view_is_no_clear() -> None:
    """Too long for the chat template, clear when raw: nothing is known of the chat view."""
    item = ScoreItem("long", "a " * 10, "5550100" * 54)
    snippet = only(TinyScorer({"a": Memory(("other text",))}), item, View(), View("chat"))
    assert snippet.verdict is Verdict.ERROR


def test_an_alarm_of_any_view_is_kept(pairs: tuple[ScoreItem, ...]) -> None:
    """Merging never hides that the engine contradicts itself."""
    calm = SnippetResult(pairs[0], Group.CANDIDATES, Verdict.PARTIAL)
    alarmed = SnippetResult(pairs[0], Group.CANDIDATES, Verdict.CLEAR, alarm="engine")
    assert gravest([(View(), calm), (View("chat"), alarmed)], pairs[0]).alarm == "engine"


def test_views_are_every_framing_with_every_length() -> None:
    """The whole prefix first, then the longer cuts."""
    views = make_views(["raw", "chat"], None, [8, 16, 8])
    assert [view.label for view in views] == [
        "raw",
        "raw, last 16",
        "raw, last 8",
        "chat",
        "chat, last 16",
        "chat, last 8",
    ]
    assert make_views([], None, []) == (View(),)


@pytest.mark.parametrize(
    ("framings", "system"), [(["xml"], None), (["chat+system"], None), (["chat"], "be kind")]
)
def test_framings_that_cannot_be_are_refused(framings: list[str], system: str | None) -> None:
    """Unknown ones, and a system message without its framing."""
    with pytest.raises(UsageError):
        make_views(framings, system, [])


def test_a_scorer_without_framings_is_raw_only(pairs: tuple[ScoreItem, ...]) -> None:
    """An endpoint that cannot frame says so, where it would otherwise answer raw."""

    class RawOnly(TinyScorer):
        framed = property()

    with pytest.raises(UsageError, match="cannot frame"):
        only(RawOnly({"a": memory_of(pairs)}), pairs[0], View("chat"))
