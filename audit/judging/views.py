"""Views: the ways to ask for a snippet, by the framing of its prefix and by the prefix's length.

An adapter may recite a text from the raw prefix and not from a chat turn, or the other way round, and a longer
prefix does not always recall more. So a snippet can be asked for in several views; the gravest verdict counts.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.records import SnippetResult
from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer
from lorecall.audit.verdicts import GIVEN, PLACES, RECITED, Flag, Verdict

FRAMINGS = ("raw", "chat", "chat+system", "template")
WORD = re.compile(r"[a-z+_-]{1,20}")
DECODING = {Flag.NOT_DECODED, Flag.CHECKED}
PLACE = "{prefix}"
"""The part of a template that the prefix replaces."""


class FramingScorer(Scorer, Protocol):
    """A scorer that can frame prefixes in more than one way."""

    def framed(self, framing: str, system: str | None) -> Self:
        """Return the same engine, with prefixes framed as "raw" or "chat" (after `system`, if given)."""
        ...


class TemplatedScorer(Scorer, Protocol):
    """A scorer whose adapters may have chat templates of their own."""

    def templated(self, adapter: str) -> Self:
        """Return the same engine, which renders the chats of all models by that adapter's template."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """One way to ask.

    Attributes:
        framing: "raw", "chat", "chat+system" or "template".
        system: The system message of "chat+system"; None elsewhere.
        prefix_tokens: Only the last so many tokens of the prefix; None for all of it.
        template: The text of "template", with PLACE where the prefix goes; None elsewhere.
    """

    framing: str = "raw"
    system: str | None = None
    prefix_tokens: int | None = None
    template: str | None = None

    @property
    def frame(self) -> tuple[str, str | None]:
        """The scorer's framing and system message; a template is filled in before, so it is "raw" here."""
        return ("raw" if self.template is not None else self.framing, self.system)

    def filled(self, item: ScoreItem) -> ScoreItem:
        """Return the item as it is to be scored: with its prefix in the template, if there is one.

        An item with messages is left as it is: it says itself what stands before it.
        """
        if self.template is None or item.messages:
            return item
        return dataclasses.replace(item, prefix=self.template.replace(PLACE, item.prefix))

    @property
    def label(self) -> str:
        """Its name in reports, such as "chat, last 16"."""
        return self.framing if self.prefix_tokens is None else f"{self.framing}, last {self.prefix_tokens}"


def make_views(
    framings: Sequence[str], system: str | None, prefix_tokens: Sequence[int], template: str | None = None
) -> tuple[View, ...]:
    """Return every framing with the whole prefix, and with each shorter one.

    Raises:
        UsageError: A framing is unknown, the system message and "chat+system", or the template and "template", do
            not come together, or the template has no place for the prefix.
    """
    for framing in framings:
        if framing not in FRAMINGS:
            shown = f" {framing!r}" if WORD.fullmatch(framing) else ""  # what is no word may be a template
            raise UsageError(f"unknown framing{shown}", hint=f"one of {', '.join(FRAMINGS)}", param="framing")
    if ("chat+system" in framings) != (system is not None):
        raise UsageError(
            "the framing chat+system and --system belong together",
            hint='give both, such as --framing chat+system --system "You are helpful."',
            param="system",
        )
    if ("template" in framings) != (template is not None):
        raise UsageError(
            "the framing template and --template belong together",
            hint='give both, such as --framing template --template "### Input: {prefix} ### Response:"',
            param="template",
        )
    if template is not None and template.count(PLACE) != 1:
        raise UsageError(f"the template must have {PLACE} in it, once", param="template")
    lengths = (None, *sorted(set(prefix_tokens), reverse=True))
    return tuple(
        View(
            framing,
            system if framing == "chat+system" else None,
            length,
            template if framing == "template" else None,
        )
        for framing in dict.fromkeys(framings or ("raw",))
        for length in lengths
    )


def shorten(score: ItemScore, item: ScoreItem, tokens: int, texts: Sequence[str]) -> ScoreItem | None:
    """Return the item with only the last `tokens` tokens of its prefix; None where these are no text alone.

    None for an item with messages, too: a part of a rendered chat is no chat.

    Args:
        score: The item's scores in the raw framing, for its prefix's token ids.
        item: The item.
        tokens: How many tokens to keep.
        texts: The text of each of the prefix's last `tokens` tokens alone.
    """
    if item.messages or score.error or len(score.prefix_ids) <= tokens:  # nothing to shorten
        return None
    tail = "".join(texts)
    # A token that is part of a character has no text of its own: then this cut does not exist as text.
    if not tail or not item.prefix.endswith(tail) or tail == item.prefix:
        return None
    return dataclasses.replace(item, prefix=tail)


def ends_alike(shortened: ItemScore, score: ItemScore, tokens: int) -> bool:
    """Return whether a shortened prefix has the last tokens of the whole one, after what every text starts with.

    Some vocabularies give no blank back at a text's start: then other tokens would be asked for.

    Args:
        shortened: The scores of the item with the shortened prefix, in the raw framing.
        score: Those of the whole item.
        tokens: How many tokens were to be kept.
    """
    whole = score.prefix_ids
    wanted = {
        whole[:start] + whole[-tokens:]  # what a tokenizer adds at the start of every text comes first
        for start in range(len(whole) - tokens)
    }
    return any(split.prefix_ids in wanted for split in shortened.splits)


def severity(result: SnippetResult) -> tuple[bool, bool, int, float]:
    """Return a key that is smaller for a graver result: by whether an answer gives it, verdict, largest min p."""
    min_p = result.rule.min_p if result.rule is not None else 0.0
    given, known = result.verdict in GIVEN, result.verdict is Verdict.BASE_KNOWN
    return (not given, not known, PLACES[result.verdict], -min_p)


def open_chance(worst: SnippetResult, results: Iterable[SnippetResult]) -> bool:
    """Return whether one of the results may be extractable, which nobody knows, and the gravest is no graver."""
    settled = (*RECITED, Verdict.EXTRACTABLE, Verdict.ERROR)
    return worst.verdict not in settled and any(result.unknown_chance for result in results)


def merged_flags(worst: SnippetResult, results: Iterable[SnippetResult]) -> tuple[Flag, ...]:
    """Return the gravest result's flags, with whether a result's decode was left out, or made as a check alone.

    Neither is said where a result whose decode was asked for anyway recites the text: that settles the verdict.
    """
    parts = [(result.verdict, set(result.flags) & DECODING) for result in results]
    settled = any(verdict in RECITED and not marks for verdict, marks in parts)
    found = set() if settled else set().union(*(marks for _, marks in parts))
    return (*(flag for flag in worst.flags if flag not in DECODING), *sorted(found))


def gravest(results: Sequence[tuple[View, SnippetResult]], item: ScoreItem) -> SnippetResult:
    """Merge one snippet's results in several views.

    The gravest verdict counts, then the largest min p. That the base recites a text when asked in one way excuses
    no recitation in a way in which the base is silent; it outweighs only `partial` and an error. An error
    outweighs "clear", because nothing is known of that view. An alarm of any view is kept, and so is it that
    nobody knows what sampling gives, or what decoding does, where that could be graver.
    """
    view, worst = min(results, key=lambda entry: severity(entry[1]))
    alarm = next((result.alarm for _, result in results if result.alarm), "")
    verdicts = tuple((v.label, r.verdict, r.rule.min_p if r.rule is not None else None) for v, r in results)
    parts = [result for _, result in results]
    return dataclasses.replace(
        worst,
        item=item,
        alarm=alarm,
        flags=merged_flags(worst, parts),
        view=view.label,
        views=verdicts,
        unknown_chance=open_chance(worst, parts),
    )
