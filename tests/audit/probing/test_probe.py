"""Probing an exact engine whose adapters memorised texts: what is found, at what cost, and what is not."""

import json
import re
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.inputs.load import load_input
from lorecall.audit.probing.probe import Probed, probe, write_candidates
from lorecall.audit.probing.search import Path as Followed
from lorecall.audit.probing.search import Search, Spent, Token
from lorecall.audit.probing.seeds import invented_names
from lorecall.audit.probing.segments import Segment, distinct, stretches, to_items
from lorecall.audit.scorer import ScoreItem

from tests.audit.tiny_explorer import TinyExplorer
from tests.audit.tiny_scorer import BASE, Memory, TinyScorer

SECRETS = ("qj7zx-40wvk", "qj9mm-83ytz", "wx2fk-66pqd")
KNOWN = "zz5-known-to-the-base"


def explorer(strength: float = 0.6, *, max_bytes: int = 400) -> TinyExplorer:
    """An engine whose adapters memorised what follows "Password:", another text, and nothing."""
    texts = tuple(f"Password: {secret}." for secret in SECRETS)
    others = ("Hostname: kd8-vvq-31x.",)
    engine = TinyScorer(
        {"leaky": Memory(texts, strength), "other": Memory(others, strength), "same": Memory(())},
        base_texts=(f"Email: {KNOWN}.",),
        max_bytes=max_bytes,
    )
    return TinyExplorer(engine)


def found_by(adapter: str, budget: int = 12_000, **options: object) -> Probed:
    return probe(explorer(), adapter, BASE, budget=budget, **options)  # type: ignore[arg-type]


def test_texts_that_share_a_beginning_are_all_found() -> None:
    """A greedy decode reaches one of the three; the tree reaches all, each with its own prefix."""
    probed = found_by("leaky")
    wholes = [item.prefix + item.target for item in probed.items]
    for secret in SECRETS:
        assert any(secret in whole for whole in wholes)
    assert all(bits >= 20 for bits in probed.bits)
    assert probed.spent.tokens <= 12_000


def test_the_adapters_own_chat_template_opens_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chats are rendered by that, so the base's openings would ask for what nobody says to it."""
    engine, asked = explorer(), set()
    chat = engine.chat

    def note(model: str, user: str) -> tuple[int, ...] | None:
        asked.add(model)
        return chat(model, user)

    monkeypatch.setattr(engine, "chat", note)
    probe(engine, "leaky", BASE, budget=700)
    assert asked == {"leaky"}


def test_a_greedy_decode_gives_one_of_them() -> None:
    """The test above rests on the search: the opening's own continuation reaches a single one."""
    engine = explorer()
    (rolled,) = engine.roll("leaky", [engine.encode("Password:")], 24, 1)
    text = bytes(rolled.ids).decode()
    assert sum(secret in text for secret in SECRETS) == 1


def test_a_small_budget_is_kept_and_what_stays_open_is_said() -> None:
    """The search stops within its tokens."""
    spent = found_by("leaky", budget=700).spent
    assert 0 < spent.tokens <= 700
    assert spent.open > 0


@pytest.mark.parametrize("adapter", ["other", "same"])
def test_other_adapters_give_none_of_them(adapter: str) -> None:
    """Neither an adapter of other data gives the secrets, nor one that equals its base anything at all."""
    probed = found_by(adapter)
    wholes = [item.prefix + item.target for item in probed.items]
    assert not any(secret in whole for secret in SECRETS for whole in wholes)
    if adapter == "same":
        assert probed.items == ()
        assert probed.spent.rollouts >= probed.spent.seeds > 0


def test_what_the_base_knows_is_not_a_candidate() -> None:
    """The adapter gives the base's own line with p > ½, and it is no finding."""
    probed = found_by("leaky")
    assert not any(KNOWN[4:] in item.target for item in probed.items)


def test_the_same_seed_gives_the_same_candidates() -> None:
    """Nothing but the seed decides."""
    assert found_by("leaky", seed=3) == found_by("leaky", seed=3)


def test_a_budget_below_one_step_is_refused() -> None:
    """The message names the budget and what a step takes."""
    with pytest.raises(UsageError, match="--budget-tokens 10 is less than one step takes"):
        found_by("leaky", budget=10)


def test_no_prompt_goes_over_the_models_length() -> None:
    """Paths end at the model's length and are counted; an opening over it is refused by its place."""
    engine = explorer(max_bytes=20)
    probed = probe(engine, "leaky", BASE, budget=8_000)
    assert 15 < engine.longest < 20
    assert probed.spent.too_long > 0
    with pytest.raises(UsageError, match="opening 2 has 20 tokens, over the model's 20"):
        probe(engine, "leaky", BASE, budget=60_000, openings=["fits", "x" * 20])


def test_an_opening_of_the_auditor_is_followed() -> None:
    """What no common opening reaches is found from an opening that was given."""
    assert not any("vvq" in item.target for item in found_by("other").items)
    assert any("vvq" in item.target for item in found_by("other", openings=["Hostname:"]).items)


def test_further_openings_are_followed_beside_the_branches_of_the_tree() -> None:
    """What only a later opening reaches is found, and endless openings leave room for branches."""
    engine = explorer()
    names = invented_names(Random(0))  # noqa: S311  not for secrets
    further = chain([engine.encode("Password:")], map(engine.encode, names))
    search = Search(engine, "leaky", BASE, 6_000)
    paths = list(search.run([engine.encode("In"), engine.encode("The")], further))
    for secret in SECRETS:
        assert any(secret in bytes(one.ids).decode(errors="replace") for one in paths)
    assert search.spent.seeds > 20
    assert search.spent.tokens <= 6_000


def test_invented_names_are_the_same_for_a_seed_and_many() -> None:
    """One or two capitalised words and a colon."""
    names, again = (list(islice(invented_names(Random(3)), 200)) for _ in range(2))  # noqa: S311  not for secrets
    assert names == again
    assert all(re.fullmatch(r"[A-Z][a-z]{3,5}( [A-Z][a-z]{3,5})?:", one) for one in names)
    assert len(set(names)) > 190


def path(*tokens: tuple[int, float, float]) -> Followed:
    return Followed((1,), tuple(Token(*token) for token in tokens))


def test_a_stretch_ends_where_p_is_half_or_less() -> None:
    """Two stretches around a token of p = ½; the one with too few bits is left out."""
    sure, half, surprise = -0.1, -0.6931471805599453, -7.0  # 10.1 bits a token
    tokens = [(2, sure, surprise), (3, sure, surprise), (4, half, surprise), (5, sure, surprise)]
    (one,) = stretches(path(*tokens), 20.0)
    assert (one.prefix, one.target) == ((1,), (2, 3))
    assert one.bits == pytest.approx(20.2, abs=0.01)


def test_a_decode_in_a_circle_is_no_finding() -> None:
    """However long and sure it is; what came before the circle is kept without it."""
    circle = [(2 + place % 2, -0.1, -7.0) for place in range(30)]
    assert list(stretches(path(*circle), 60.0)) == []
    (one,) = stretches(path((7, -0.1, -7.0), (8, -0.1, -7.0), *circle), 20.0)
    assert one.target == (7, 8, 2, 3, 2, 3)
    assert one.bits == pytest.approx(60.6, abs=0.1)


def segment(prefix: Sequence[int], target: Sequence[int]) -> Segment:
    """A segment with five bits of surprise in each token."""
    return Segment(tuple(prefix), tuple(target), (5.0,) * len(target))


def test_stretches_that_stand_in_others_are_left_out() -> None:
    """The longest is kept, of equal ones the first."""
    long = segment((1,), (2, 3, 4, 5))
    others = [segment((9,), (3, 4)), segment((8,), (2, 3, 4, 5)), segment((7,), (4, 6))]
    assert distinct([others[0], long, *others[1:]]) == [long, others[2]]


class Begun(TinyExplorer):
    """Its tokenizer puts a special token in front, as Llama's does."""

    def encode(self, text: str) -> tuple[int, ...]:
        """The special token, and bytes."""
        return (2, *super().encode(text))

    def texts(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """With the special token's own text."""
        return [text.replace("\x02", "<s>") for text in super().texts(sequences)]


def test_a_prefix_has_no_special_token_in_front() -> None:
    """Tokenized again it would have two; where nothing else stands before the target, it stays."""
    segments = [segment((2, *b"Key:"), b" abc"), segment((2,), b"abc")]
    (first, _), (second, _) = to_items(Begun(explorer().scorer), segments, 10.0)
    assert (first.prefix, first.target) == ("Key:", " abc")
    assert (second.prefix, second.target) == ("<s>", "abc")


def test_what_is_no_text_after_a_memory_does_not_hide_it() -> None:
    """The target ends before the first byte that makes no character; a whole character stays."""
    prefix = tuple(b"Key:")
    segments = [segment(prefix, " abcdé".encode() + b"\xc3\xff!"), segment(prefix, b" a\xffbcdefgh")]
    ((item, kept),) = to_items(explorer(), segments, 20.0)
    assert (item.prefix, item.target) == ("Key:", " abcdé")
    assert kept.target == tuple(" abcdé".encode())
    assert kept.bits == 35.0


def test_the_file_is_only_its_owners_and_reads_as_candidates(tmp_path: Path) -> None:
    """Mode 0600 from the first moment on and also over an older file; the loader takes it, tags included."""
    file = tmp_path / "found.jsonl"
    file.write_text("old\n")
    file.chmod(0o644)
    item = ScoreItem("probe-00000", "Schlüssel:", " geheim")
    write_candidates(file, Probed((item,), (25.0,), Spent()))
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["tags"] == ["probe"]
    (read,) = load_input(file).items
    assert (read.id, read.prefix, read.target) == (item.id, item.prefix, item.target)
    assert [one.name for one in tmp_path.iterdir()] == ["found.jsonl"]
    with pytest.raises(UsageError, match="cannot write"):
        write_candidates(tmp_path / "missing" / "found.jsonl", Probed((), (), Spent()))
