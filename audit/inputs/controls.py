"""Controls, texts that nothing was trained on: make them in the candidates' format, or check given ones."""

import hashlib
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.written_form import Folded, fold, folded
from lorecall.audit.scorer import ScoreItem

SHORT_RUN = 5
NGRAM = 50  # as in the contamination check of the GPT-4 report, arXiv 2303.08774, appendix C
FORMAT_SHARE = 0.05
TRIES = 20
MODELS = 10_000
WORDS = re.compile(r"\w+|\W+")


class Recipe(StrEnum):
    """How controls are made.

    PERMUTATION gives each prefix another candidate's target: recited, it shows recall that does not depend on
    the prefix. Those targets were trained, so they calibrate nothing. SYNTHESIS draws new text of the same
    format: recited, it shows guessing.
    """

    PERMUTATION = "permutation"
    SYNTHESIS = "synthesis"


def make_controls(candidates: CandidateSet, recipe: Recipe, count: int, seed: int) -> CandidateSet:
    """Make controls from the candidates.

    Args:
        candidates: The texts whose format the controls take.
        recipe: How they are made.
        count: How many; permutation makes at most as many as there are candidates.
        seed: Seed of the random choices.

    Raises:
        CandidateError: The candidates do not allow it: too few, too alike, or without anything to draw anew.
    """
    rng = random.Random(seed)  # noqa: S311  not for secrets
    make = {Recipe.PERMUTATION: _permute, Recipe.SYNTHESIS: _synthesise}[recipe]
    items = make(candidates.items, count, rng)
    if not items:
        raise CandidateError(
            f"no controls can be made from {len(candidates.items)} candidates by {recipe}",
            hint="give a file of them with --controls",
            param="generate_controls",
        )
    digest = hashlib.sha256("\0".join("\0".join(item.texts) for item in items).encode()).hexdigest()
    return CandidateSet(
        f"{recipe} of {candidates.name}", digest, tuple(items), generated=f"{recipe}, seed {seed}"
    )


def _permute(items: Sequence[ScoreItem], count: int, rng: random.Random) -> list[ScoreItem]:
    drawn = [items[place] for place in rng.sample(range(len(items)), min(count, len(items)))]
    others = [
        [items[place].target for place in rng.sample(range(len(items)), min(TRIES, len(items)))]
        for _ in drawn
    ]
    pairs = zip(drawn, others, strict=True)
    asked = {(item.messages, item.prefix, target) for item, targets in pairs for target in targets}
    trained = {item.asked for item in items if item.asked in asked}
    made = []
    for item, targets in zip(drawn, others, strict=True):
        target = next((one for one in targets if (item.messages, item.prefix, one) not in trained), None)
        if target is not None:
            made.append(replace(item, id=f"permuted-{item.id}", target=target))
    return made


def _synthesise(items: Sequence[ScoreItem], count: int, rng: random.Random) -> list[ScoreItem]:
    """Draw anew what differs between candidates; words that a tenth of them share are the format, and stay.

    The format is that of a sample of the candidates; the controls are checked against all of them.
    """
    models = items
    if len(items) > MODELS:
        models = [items[place] for place in rng.sample(range(len(items)), MODELS)]
    made = _draw(models, count, rng)
    shared = overlapping(items, made)
    return [item for item in made if item.id not in shared]


def _draw(items: Sequence[ScoreItem], count: int, rng: random.Random) -> list[ScoreItem]:
    frames = [_frame([getattr(item, part) for item in items]) for part in ("prefix", "target")]
    said = _frame(["\n".join(message.content for message in item.messages) for item in items])
    overlaps = overlap_finder(items)
    made: list[ScoreItem] = []
    for index in range(count):
        for _ in range(TRIES):
            model = rng.choice(items)
            texts = [
                _redraw(text, kept, rng)
                for text, kept in zip((model.prefix, model.target), frames, strict=True)
            ]
            chat = tuple(replace(one, content=_redraw(one.content, said, rng)) for one in model.messages)
            control = replace(model, id=f"synthetic-{index}", prefix=texts[0], target=texts[1], messages=chat)
            if texts[1] != model.target and not overlaps(control):
                made.append(control)
                break
    return made


def _frame(texts: Sequence[str]) -> set[str]:
    seen = Counter(word for text in texts for word in set(WORDS.findall(text)))
    return {word for word, times in seen.items() if times >= max(2, len(texts) / 10)}


def _redraw(text: str, kept: set[str], rng: random.Random) -> str:
    return "".join(w if w in kept else "".join(_same_kind(c, rng) for c in w) for w in WORDS.findall(text))


def _same_kind(character: str, rng: random.Random) -> str:
    for kind in (string.digits, string.ascii_lowercase, string.ascii_uppercase):
        if character in kind:
            return rng.choice(kind)
    return character


def overlap_finder(candidates: Sequence[ScoreItem]) -> Callable[[ScoreItem], bool]:
    """Return a function that tells whether a text shares content with the candidates' targets.

    Content is a run of fifty characters (or a whole shorter target) that occurs in at least one and at most one
    in twenty of the candidates' targets; more frequent runs are the format that both share.
    """
    counts = Counter(gram for item in candidates for gram in ngrams(item.target))
    content = {gram for gram, times in counts.items() if times <= max(1.0, FORMAT_SHARE * len(candidates))}
    return lambda item: not content.isdisjoint(ngrams(item.target))


def overlapping(candidates: Iterable[ScoreItem], others: Sequence[ScoreItem]) -> set[str]:
    """Return the ids of the texts that hold a candidate's whole target, or share content with one.

    A whole target counts however many candidates have it, and in whatever written form; within a longer word or
    number it does not. Content is defined in `overlap_finder`. The candidates are read once; memory grows with
    `others` only.
    """
    folds = {item.id: fold(item.target) for item in others}
    grams = {name: runs(text.text, NGRAM) for name, text in folds.items()}
    wanted = set().union(*grams.values())
    holders = _Holders(folds)
    counts: Counter[str] = Counter()
    total = 0
    for item in candidates:
        total += 1
        target = fold(item.target)
        counts.update(wanted & runs(target.text, NGRAM))
        holders.look_for(target)
    content = {gram for gram, times in counts.items() if times <= max(1.0, FORMAT_SHARE * total)}
    return holders.found | {name for name, found in grams.items() if not content.isdisjoint(found)}


class _Holders:
    """Finds which of some folded texts hold a target, for any number of targets.

    A target with a run of five characters that no text has is told apart by a look into a set.
    """

    def __init__(self, folds: Mapping[str, Folded]) -> None:
        self.found: set[str] = set()
        self._folds = folds
        self._runs = set().union(*(runs(text.text, SHORT_RUN) for text in folds.values()))
        self._seen: set[str] = set()

    def look_for(self, target: Folded) -> None:
        """Add the names of the texts that hold a target to `found`."""
        text = target.text
        if not text or text in self._seen:
            return
        if len(text) >= SHORT_RUN and not runs(text, SHORT_RUN) <= self._runs:
            return
        self._seen.add(text)
        held = {name for name, other in self._folds.items() if text in other.text}
        self.found |= {name for name in held if self._folds[name].find(target) is not None}


def ngrams(text: str) -> set[str]:
    """Return the runs of fifty characters of the folded text; the text itself if it is no longer."""
    return runs(folded(text), NGRAM)


def runs(text: str, size: int) -> set[str]:
    """Return the runs of so many characters of a text; the text itself if it is no longer."""
    return {text[i : i + size] for i in range(max(1, len(text) - size + 1))}


def check_disjoint(candidates: CandidateSet, controls: CandidateSet) -> None:
    """Check that no given control has the id or the text of a candidate.

    Raises:
        CandidateError: A control has a candidate's id, holds its target, or shares content with it.
    """
    own = {item.id for item in controls.items}
    ids = {item.id for item in candidates.items if item.id in own}
    shared = overlapping(candidates.items, controls.items)
    by_id = [item.id for item in controls.items if item.id in ids]
    by_text = [item.id for item in controls.items if item.id in shared]
    for found, what in ((by_id, "have a candidate's id"), (by_text, "share text with a candidate's target")):
        if found:
            shown = ", ".join(repr(name) for name in found[:5]) + (", ..." if len(found) > 5 else "")
            raise CandidateError(
                f"{len(found)} of {len(controls.items)} controls {what}: {shown}",
                hint="controls must be texts that nothing was trained on; leave these out",
                param="controls",
            )
