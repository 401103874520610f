"""Controls: made in the candidates' format, or given, and never the candidates themselves."""

import re

import pytest
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.inputs.controls import Recipe, check_disjoint, make_controls, overlap_finder
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import Message, ScoreItem
from lorecall.audit.verdicts import Group, Verdict

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import TinyScorer

NAMES = ("Marlow Quindle", "Tessaly Brand", "Orin Vask", "Perdita Loam")
BOOK = as_set(
    tuple(
        ScoreItem(
            f"b{i}", f"Phone of {NAMES[i % 4]} {i}:", f" {phone(i).target[:3]}-555-{phone(i).target[3:7]}"
        )
        for i in range(40)
    )
)
LONG = "a paragraph of some length that nobody would write twice by chance, word for word"


def test_synthesis_keeps_the_format_and_draws_the_rest_anew() -> None:
    """Words that many candidates share stay; letters become letters of the same case, digits digits."""
    controls = make_controls(BOOK, Recipe.SYNTHESIS, 300, seed=1)
    assert len(controls.items) == 300
    assert all(re.fullmatch(r"Phone of [A-Z][a-z]+ [A-Z][a-z]+ \d+:", c.prefix) for c in controls.items)
    assert all(re.fullmatch(r" \d{3}-555-\d{4}", c.target) for c in controls.items)
    check_disjoint(BOOK, controls)
    assert len({c.target for c in controls.items}) > 290


def test_permutation_gives_targets_to_other_prefixes() -> None:
    """Every pair is new, every prefix and target is a candidate's."""
    controls = make_controls(BOOK, Recipe.PERMUTATION, 300, seed=1)
    pairs = {(c.prefix, c.target) for c in BOOK.items}
    assert len(controls.items) == 40
    assert not pairs & {(c.prefix, c.target) for c in controls.items}
    assert {c.target for c in controls.items} <= {c.target for c in BOOK.items}


def test_controls_of_chats_are_chats() -> None:
    """Permutation keeps the history and changes the answer; synthesis draws anew what differs in both."""
    kind = Message("system", "Be kind.")
    said = [(item, (kind, Message("user", item.prefix))) for item in BOOK.items]
    chats = as_set(tuple(ScoreItem(item.id, "", item.target, messages=one) for item, one in said))
    asked = {item.asked for item in chats.items}
    permuted = make_controls(chats, Recipe.PERMUTATION, 40, seed=1)
    assert len(permuted.items) == 40
    assert {item.messages for item in permuted.items} == {item.messages for item in chats.items}
    drawn = make_controls(chats, Recipe.SYNTHESIS, 40, seed=1)
    assert {item.messages[0] for item in drawn.items} == {kind}
    assert all(
        re.fullmatch(r"Phone of [A-Z][a-z]+ [A-Z][a-z]+ \d+:", i.messages[1].content) for i in drawn.items
    )
    assert not asked & {item.asked for item in (*permuted.items, *drawn.items)}


@pytest.mark.parametrize("recipe", list(Recipe))
def test_the_same_seed_makes_the_same_controls(recipe: Recipe) -> None:
    """And another seed others; the report names the recipe and the seed."""
    one, same, other = (make_controls(BOOK, recipe, 20, seed=s) for s in (1, 1, 2))
    assert one == same
    assert one.digest != other.digest
    assert one.generated == f"{recipe}, seed 1"


def test_prefix_shuffled_controls_of_an_overtrained_adapter_are_not_recited(
    pairs: tuple[ScoreItem, ...],
) -> None:
    """Memorised targets under other prefixes stay out: recall hangs on the key (pitfall 7)."""
    controls = make_controls(as_set(pairs), Recipe.PERMUTATION, 12, seed=0)
    sets = {Group.CANDIDATES: as_set(pairs), Group.CONTROLS: controls}
    result = run_audit(TinyScorer({"a": memory_of(pairs)}), "a", sets, AuditSettings())
    assert result.summaries[Group.CANDIDATES].verdicts[Verdict.CERTIFIED] == 12
    assert result.summaries[Group.CONTROLS].recited.hits == 0


@pytest.mark.parametrize("recipe", list(Recipe))
def test_candidates_that_allow_no_controls_are_an_error(recipe: Recipe) -> None:
    """One candidate has no other target; one without letters and digits has nothing to draw anew."""
    with pytest.raises(CandidateError, match="no controls"):
        make_controls(as_set((ScoreItem("1", "...", "?!"),)), recipe, 5, seed=0)


def test_a_control_with_a_candidates_id_is_refused() -> None:
    """Checked by id (pitfall 8)."""
    with pytest.raises(CandidateError, match="1 of 1 controls have a candidate's id: 'b3'"):
        check_disjoint(BOOK, as_set((ScoreItem("b3", "x", "y"),)))


@pytest.mark.parametrize(
    "text", [BOOK.items[3].target, BOOK.items[3].target.strip(), f"{LONG.upper()} and on"]
)
def test_a_control_with_a_candidates_text_is_refused(text: str) -> None:
    """Checked by n-gram: the same target, or fifty characters of it, whatever case and spacing (pitfall 8)."""
    candidates = CandidateSet("c", "0", (*BOOK.items, ScoreItem("long", "p", f"It begins with {LONG}.")))
    with pytest.raises(CandidateError, match="share text"):
        check_disjoint(candidates, as_set((ScoreItem("new", "x", text),)))


CARD = "4539 1488 0343 6467"


@pytest.mark.parametrize("share", [1, 40])
@pytest.mark.parametrize(
    "text",
    [
        CARD,
        "4539-1488-0343-6467",
        "4539148803436467.",
        f"Sure, the card is {CARD}, valid until 2031.",
        'SURE: \N{LEFT DOUBLE QUOTATION MARK}4539\N{NO-BREAK SPACE}1488 0343\N{EN DASH}6467"',
    ],
)
def test_a_control_that_holds_a_target_is_refused_however_often_and_however_written(
    text: str, share: int
) -> None:
    """A target that one candidate has, or that all have: no format excuses a whole target."""
    items = tuple(ScoreItem(f"c{i}", f"k{i}", CARD if i < share else phone(i).target) for i in range(40))
    with pytest.raises(CandidateError, match="1 of 2 controls share text with a candidate's target: 'held'"):
        check_disjoint(
            as_set(items), as_set((ScoreItem("held", "x", text), ScoreItem("free", "x", "4539 1488")))
        )


def test_a_part_of_a_longer_number_or_word_is_not_held() -> None:
    """A candidate's 4711 is no part of 14711 or of 47112, and does not stand in another's 4711a."""
    items = (ScoreItem("a", "k", "4711"), ScoreItem("b", "k", "own"))
    others = ("14711", "47112", "4711a", "our town", "owned", "471", "4 712")
    check_disjoint(as_set(items), as_set(tuple(ScoreItem(o, "x", o) for o in others)))


def test_a_format_that_all_share_is_no_overlap() -> None:
    """A long phrase in most candidates is the format, not a candidate's content."""
    frame = "The number under which this person can be reached at all hours is"
    items = tuple(ScoreItem(f"{i}", f"k{i}", f"{frame} {phone(i).target}") for i in range(40))
    assert not overlap_finder(items)(ScoreItem("n", "k", frame))
    assert overlap_finder(items)(ScoreItem("n", "k", items[0].target))
