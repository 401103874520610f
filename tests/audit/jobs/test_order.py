"""What an audit may be asked for with; no refusal quotes a text."""

import contextlib
import json
import sys
from typing import Any

import pytest
from lorecall.adapters.core.errors import CandidateError, LorecallError, UsageError
from lorecall.audit.inputs import parsed
from lorecall.audit.jobs import order
from lorecall.audit.jobs.order import MAX_ANSWERS, make_order
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group

from tests.audit.input_files import HAS_ARROW, parquet

HIDDEN = "4408 2265 9017"
ITEM = {"id": "1", "prefix": "Key: ", "target": HIDDEN}
DEEP: list[Any] = []
for _ in range(2000):
    DEEP = [DEEP]
LINE = json.dumps(ITEM).encode() + b"\n"


def asked(**fields: Any) -> dict[str, object]:
    return {"adapter": "acme", "candidates": [ITEM], **fields}


def test_candidates_come_inline_or_as_a_file() -> None:
    """Both give the same set; a file keeps its own name, without its folder."""
    inline = make_order(asked(), {})
    upload = make_order({"adapter": "acme"}, {"candidates": ("C:\\data/c.jsonl", LINE)})
    assert inline.texts.sets[Group.CANDIDATES].items == upload.texts.sets[Group.CANDIDATES].items
    assert upload.texts.sets[Group.CANDIDATES].name == "c.jsonl"
    assert inline.candidate_set == upload.candidate_set


def test_a_file_is_read_by_its_kind_and_options() -> None:
    """A text by sentence or by window; a chat with the turns that are asked for."""
    text = b"One is first. Two comes next. " + b"word " * 70
    for split, target in (("sentence", " Two comes next."), ("window", " word word")):
        made = make_order({"adapter": "a", "split": split}, {"candidates": ("a.txt", text)})
        assert made.texts.sets[Group.CANDIDATES].items[0].target.startswith(target)
    turns = [{"role": role, "content": f"{role} {n}"} for n in (1, 2) for role in ("user", "assistant")]
    chat = json.dumps({"messages": turns}).encode()
    with pytest.raises(CandidateError, match="--turns"):
        make_order({"adapter": "a"}, {"candidates": ("c.jsonl", chat)})
    last = make_order({"adapter": "a", "turns": "last"}, {"candidates": ("c.jsonl", chat)})
    assert [item.target for item in last.texts.sets[Group.CANDIDATES].items] == ["assistant 2"]
    with pytest.raises(UsageError, match="split"):
        make_order({"adapter": "a", "split": "tokens"}, {"candidates": ("a.txt", text)})


@pytest.mark.skipif(not HAS_ARROW, reason="tables need the optional pyarrow")
def test_a_small_table_of_much_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that stands once in the file counts as often as a row names it; too many rows are not read."""
    long = parquet({"prefix": ["p"] * 200, "target": ["x" * 900_000] * 200})
    many = parquet({"prefix": ["p"] * 5000, "target": ["t"] * 5000})
    assert max(len(long), len(many)) < 1 << 20
    checked = 0
    check = parsed._checked

    def counted(item: ScoreItem) -> ScoreItem:
        nonlocal checked
        checked += 1
        return check(item)

    monkeypatch.setattr(parsed, "_checked", counted)
    for content, read in ((long, 100), (many, 1100)):
        with pytest.raises(CandidateError, match="more than 1000 snippets, or 67108864 characters"):
            make_order({"adapter": "a"}, {"candidates": ("c.parquet", content)}, 1000)
        assert checked < read
        checked = 0


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "file:///etc/passwd", "s3://bucket/key", "/etc/passwd"]
)
def test_no_field_is_an_address_that_is_read(url: str) -> None:
    """Whatever field of an order holds an address or a path, nothing is opened or connected to for it."""
    reached: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (
            event in ("socket.connect", "socket.getaddrinfo") or (event == "open" and arguments[0] == url)
        ):
            reached.append(event)

    watching = True
    sys.addaudithook(watch)
    names = order._Fields.model_fields
    assert len(names) > 10
    for name in names:
        for value in (url, [url], {"url": url}, [{"id": url, "prefix": url, "target": url}]):
            with contextlib.suppress(LorecallError):
                make_order(asked(**{name: value}), {})
    for upload in ((url, LINE), ("c.jsonl", url.encode())):
        with contextlib.suppress(LorecallError):
            make_order({"adapter": "acme"}, {"candidates": upload})
    watching = False
    assert reached == []


def test_the_set_has_a_name_of_its_own() -> None:
    """The same texts are the same set whatever their ids; another text or another order is another set."""
    two = [ITEM, {"id": "2", "prefix": "Key: ", "target": "x y z"}]
    digest = make_order(asked(candidates=two), {}).candidate_set
    assert (
        make_order(asked(candidates=[{**one, "id": one["id"] + "b"} for one in two]), {}).candidate_set
        == digest
    )
    assert make_order(asked(candidates=two[::-1]), {}).candidate_set != digest
    said = [{**one, "messages": [{"role": "user", "content": "Key?"}]} for one in two]
    chat = make_order(asked(candidates=said), {})
    assert chat.candidate_set != digest
    assert chat.tokens_to_score == make_order(asked(candidates=two), {}).tokens_to_score + 2 * 2 * 4 // 4


def test_settings_hold_no_text() -> None:
    """What goes into the database is all but the sets, the system message and the salt."""
    full = asked(
        framing=["raw", "chat+system"], system=HIDDEN, policy={"max_certified": 2}, prefix_tokens=[8]
    )
    made = make_order(full, {})
    assert HIDDEN not in made.settings.model_dump_json()
    assert made.texts.system == HIDDEN
    template = make_order(asked(framing=["template"], template=HIDDEN + "{prefix}"), {})
    assert HIDDEN not in template.settings.model_dump_json()
    assert template.texts.template == HIDDEN + "{prefix}"
    assert made.settings.rules().max_certified == 2
    views = made.settings.audit_settings(made.texts.system, made.texts.template).views
    assert [view.label for view in views] == ["raw", "raw, last 8", "chat+system", "chat+system, last 8"]
    again = type(made.settings).model_validate(json.loads(made.settings.model_dump_json()))
    assert again == made.settings


def test_controls_are_given_or_made() -> None:
    """A recipe makes them from the candidates; a candidate among them is refused."""
    candidates = [
        {"id": str(i), "prefix": f"Key {i}: ", "target": f"{i}{i * 7} {i * 13}"} for i in range(1, 9)
    ]
    made = make_order(
        asked(candidates=candidates, generate_controls="synthesis", control_count=5), {}
    ).texts.sets[Group.CONTROLS]
    assert len(made.items) == 5
    with pytest.raises(CandidateError, match="controls"):
        make_order(asked(controls=[ITEM]), {})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"candidates": [ITEM]}, "adapter"),
        ({"adapter": "acme"}, "candidates"),
        (asked(nonsense=HIDDEN), None),
        (asked(candidates=[HIDDEN]), "candidates.0"),
        (asked(candidates={"id": HIDDEN}), "candidates"),
        (asked(candidates=[{"prefix": HIDDEN}]), "candidates"),
        (asked(candidates=[{**ITEM, "target": 5, "prefix": HIDDEN}]), "candidates"),
        (asked(candidates=[ITEM, ITEM]), "candidates"),
        (asked(candidates=[{**ITEM, "id": "a\nb"}]), "candidates"),
        (asked(candidates=[{**ITEM, "target": HIDDEN + "\ud800"}]), "candidates"),
        (asked(framing="xml"), "framing"),
        (asked(framing="chat+system"), "system"),
        (asked(system={"text": HIDDEN}), "system"),
        (asked(epsilon=-1), "epsilon"),
        (asked(epsilon="nan"), "epsilon"),
        (asked(confidence=1), "confidence"),
        (asked(sample=-1), "sample"),
        (asked(sample=1.5), "sample"),
        (asked(sample=MAX_ANSWERS + 1), "sample"),
        (asked(sample=1, policy={"max_extractable": {"temperature": 0}}), "sample"),
        (asked(policy={"max_nothing": 1}), "policy"),
        (asked(policy=[HIDDEN]), "policy"),
        (asked(generate_controls="magic"), "generate_controls"),
        (asked(template="{prefix}" + HIDDEN * 2000, framing="template"), "template"),
        (asked(template="{prefix}\ud800", framing="template"), "template"),
        (asked(system=HIDDEN * 2000, framing="chat+system"), "system"),
        (asked(system="\ud800", framing="chat+system"), "system"),
        (asked(framing=["raw"] * 9), "framing"),
        (asked(framing=[HIDDEN * 10]), "framing.0"),
        (asked(prefix_tokens=[*range(1, 18)]), "prefix_tokens"),
        (asked(prefix_tokens=[-3]), "prefix_tokens.0"),
        (asked(seed=10**4000), "seed"),
        (asked(policy={"max_certified": 10**4000}), "policy"),
        (asked(policy={"max_rate": float("nan")}), "policy"),
        (asked(candidates=[{**ITEM, "x": DEEP}]), "candidates"),
        (asked(candidates=[{**ITEM, "id": 10**4400}]), "candidates"),
        (asked(candidates=[{**ITEM, "id": "x" * 513}]), "candidates"),
        (asked(candidates=[{**ITEM, "prefix": "x" * (1 << 20)}]), "candidates"),
    ],
)
def test_a_wrong_field_is_named_without_its_text(fields: dict[str, object], param: str | None) -> None:
    """The error names the field, is the caller's fault, and quotes no text, nor does its cause."""
    with pytest.raises(UsageError) as caught:
        make_order(fields, {})
    assert caught.value.param == param
    assert HIDDEN not in str(caught.value)
    assert HIDDEN not in str(caught.value.__cause__)


def test_bad_lines_are_refused_or_counted() -> None:
    """The line's number is in the message; skip_bad leaves it out and counts it."""
    files = {"candidates": ("c.jsonl", LINE + b'{"prefix": "' + HIDDEN.encode() + b'"\n')}
    with pytest.raises(CandidateError, match="line 2") as caught:
        make_order({"adapter": "acme"}, files)
    assert HIDDEN not in str(caught.value)
    kept = make_order({"adapter": "acme", "skip_bad": True}, files).texts.sets[Group.CANDIDATES]
    assert (len(kept.items), kept.bad_count) == (1, 1)


def test_an_audit_has_a_bound() -> None:
    """More snippets than one audit takes are refused with the number that it takes."""
    two = [ITEM, {**ITEM, "id": "2"}]
    with pytest.raises(LorecallError, match="one audit takes 1"):
        make_order(asked(candidates=two), {}, 1)
    assert make_order(asked(candidates=two), {}, 2).texts_to_score == 2


def test_what_an_audit_costs_is_known_before_it_runs() -> None:
    """Every snippet in every view; a token for four bytes, through the adapter and through the base."""
    item = {"id": "1", "prefix": "é" * 40, "target": "x" * 20}  # 100 bytes
    many = {"candidates": [item], "controls": [{**item, "id": "2", "prefix": "y" * 80, "target": "z" * 20}]}
    one = make_order(asked(**many), {})
    assert (one.texts_to_score, one.tokens_to_score) == (2, 2 * 200 // 4)
    views = {"framing": ["raw", "chat"], "prefix_tokens": [4, 8]}
    more = make_order(asked(**many, **views), {})
    assert (more.texts_to_score, more.tokens_to_score) == (12, 6 * one.tokens_to_score)
    assert more.settings.views == len(more.settings.audit_settings(None, None).views)


def test_drawn_answers_have_a_bound_and_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all snippets together; each answer costs its prompt and itself."""
    two = [ITEM, {**ITEM, "id": "2"}]
    size = make_order(asked(candidates=two), {}).tokens_to_score // 2
    assert make_order(asked(candidates=two, sample=10), {}).tokens_to_score == pytest.approx(12 * size, abs=6)
    monkeypatch.setattr(order, "MAX_DRAWS", 20)
    assert make_order(asked(candidates=two, sample=10), {}).settings.audit_settings(None, None).answers == 10
    with pytest.raises(UsageError, match="11 answers for each snippet are 22, and one audit draws 20"):
        make_order(asked(candidates=two, sample=11), {})


def test_a_budget_pays_for_the_controls_and_counts_no_draws_of_what_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what may be asked for can be drawn; a budget that the controls use up buys nothing."""
    many = [{**ITEM, "id": str(n), "target": f" {n:04d}"} for n in range(40)]
    controls = [{**ITEM, "id": f"c{n}", "target": f" x{n:03d}"} for n in range(10)]
    alone = len(make_order(asked(candidates=many, budget_tokens=600), {}).asked[Group.CANDIDATES])
    given = {"candidates": many, "controls": controls, "budget_tokens": 600, "sample": 2}
    found = make_order(asked(**given), {}).asked
    left = len(found[Group.CANDIDATES])
    assert 0 < left < alone < 40
    monkeypatch.setattr(order, "MAX_DRAWS", 2 * (left + 10))
    assert make_order(asked(**given), {}).settings.sample == 2
    with pytest.raises(UsageError, match="answers for each snippet"):
        make_order(asked(**{**given, "sample": 3}), {})
    with pytest.raises(UsageError, match="does not pay for the controls"):
        make_order(asked(**{**given, "budget_tokens": 50}), {})


def test_two_sources_of_one_set_are_refused() -> None:
    """Inline and as a file at once would leave open which one counts."""
    with pytest.raises(UsageError, match="both"):
        make_order(asked(), {"candidates": ("c.jsonl", LINE)})
