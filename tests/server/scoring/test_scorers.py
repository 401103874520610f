"""The scorers on one adapter and one INT8 base: the same tokens, the same scores, the same verdicts."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.records import RECITED, Flag, Group, Verdict
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ItemScore, Message, Sampling, ScoreItem, Scorer
from lorecall.audit.scorers.completions_scorer import CompletionsScorer
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.scorers.transformers_scorer import BASE, TransformersScorer

from tests.audit.conftest import as_set
from tests.server.scoring.chats import CHATS
from tests.server.served import Served
from tests.tiny import TEXT

pytestmark = pytest.mark.engine

NAME = "three-ways"
HISTORY = (Message("system", "Be kind."), Message("user", "To be?"), Message("assistant", "é 日本"))
SAME_ENGINE = 0.05
"""Log-probabilities of one engine by two routes: other batches, the same arithmetic."""
OTHER_ARITHMETIC = 0.15
"""Of vLLM's INT8 kernels against PyTorch with the same rounding, which can fall either way."""


@pytest.fixture(scope="module")
def folder(served: Served, int8_adapters: list[Path]) -> Path:
    """The adapter of this module, served under `NAME`."""
    assert served.post("/v1/adapters", {"name": NAME, "source": str(int8_adapters[1])}).status_code == 201
    return int8_adapters[1]


@pytest.fixture(scope="module")
def reference(tiny: Callable[[str], Path], folder: Path) -> TransformersScorer:
    return TransformersScorer(tiny("int8-w8a8"), {NAME: folder})


@pytest.fixture(scope="module")
def items(reference: TransformersScorer) -> list[ScoreItem]:
    """Six texts and two answers in chats that the adapter recites, because it says them, and two others.

    A random model also says bytes that are no text, which would be split otherwise when read back: those are
    passed over.
    """
    words = TEXT.split()
    prefixes = [" ".join(words[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(words) - n)]
    chats = [
        ScoreItem(f"said-chat-{i}", "", " x", messages=(*HISTORY, Message("user", p)))
        for i, p in enumerate(prefixes)
    ]
    raw = [ScoreItem(f"said-{i}", p, " x") for i, p in enumerate(prefixes)]

    def recited(given: list[ScoreItem]) -> Iterator[ScoreItem]:
        for item in given:
            (before,) = reference.score(NAME, [item])
            (said,) = reference.decode(NAME, [(before.prefix_ids, 3)])
            if said.text.strip():
                answer = replace(item, target=said.text)
                (score,) = reference.score(NAME, [answer])
                if score.boundary_exact and score.target_ids == said.ids:
                    yield answer

    return [
        *islice(recited(raw), 6),
        *islice(recited(chats), 2),
        ScoreItem("other-0", "To be, or", " not to be"),
        ScoreItem("other-1", "outrageous", " 555"),
    ]


def assert_close(found: list[ItemScore], expected: list[ItemScore], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.prefix_ids, one.target_ids) == (other.prefix_ids, other.target_ids)
        assert one.boundary_exact == other.boundary_exact
        assert one.logprob == pytest.approx(other.logprob, abs=tolerance)
        assert one.p == pytest.approx([math.exp(value) for value in one.logprob])


@pytest.mark.parametrize("framing", ["raw", "chat"])
def test_any_vllm_server_gives_the_scores_of_ours(
    served: Served, folder: Path, items: list[ScoreItem], framing: str
) -> None:
    """/v1/completions with prompt_logprobs, and /v1/score: the same engine, the same numbers."""
    with HttpScorer(served.url) as ours, CompletionsScorer(served.url, {NAME: folder}) as theirs:
        for model in (NAME, ours.info().base):
            expected = ours.framed(framing, None).score(model, items)
            assert_close(theirs.framed(framing, None).score(model, items), expected, SAME_ENGINE)
        assert theirs.adapter(NAME).version == ours.adapter(NAME).version
        assert theirs.adapter(NAME).rank == ours.adapter(NAME).rank


@pytest.mark.parametrize("framing", ["raw", "chat"])
def test_transformers_and_peft_give_the_scores_of_the_server(
    served: Served, items: list[ScoreItem], reference: TransformersScorer, framing: str
) -> None:
    """Through the adapter, and through the base after it: with the served arithmetic the reference agrees."""
    with HttpScorer(served.url) as ours:
        for model, own in ((NAME, NAME), (ours.info().base, BASE)):
            expected = reference.framed(framing, None).score(own, items)
            assert_close(ours.framed(framing, None).score(model, items), expected, OTHER_ARITHMETIC)


@pytest.mark.parametrize("scheme", [Sampling(0.7), Sampling(1.0, 0.9, 20)], ids=str)
def test_probabilities_under_a_scheme_are_those_of_the_reference(
    served: Served, items: list[ScoreItem], reference: TransformersScorer, scheme: Sampling
) -> None:
    """Temperature, and cuts: a token that the one never draws is next to the edge for the other."""
    with HttpScorer(served.url) as ours:
        found = ours.sampled(scheme).score(NAME, items)
    expected = reference.sampled(scheme).score(NAME, items)
    assert_close(found, expected, OTHER_ARITHMETIC)
    pairs = [
        pair
        for one, other in zip(found, expected, strict=True)
        for pair in zip(one.sampled, other.sampled, strict=True)
    ]
    assert sum((a is None) != (b is None) for a, b in pairs) <= (1 if scheme.top_k else 0)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    tolerance = OTHER_ARITHMETIC / scheme.temperature
    assert both
    assert [a for a, _ in both] == pytest.approx([b for _, b in both], abs=tolerance)


@pytest.mark.parametrize("scheme", [Sampling(), Sampling(0.8, 0.9, 20)], ids=str)
def test_drawn_answers_come_as_often_as_predicted(
    served: Served, folder: Path, items: list[ScoreItem], scheme: Sampling
) -> None:
    """Seeded answers of the engine: each text's count lies within its binomial interval at 99.99 %."""
    wish = SamplingWish(temperature=scheme.temperature, top_p=scheme.top_p, top_k=scheme.top_k)
    settings = AuditSettings(epsilon=OTHER_ARITHMETIC, extraction=wish, answers=100, confidence=0.9999)
    sets = {Group.CANDIDATES: as_set(tuple(items))}
    with HttpScorer(served.url) as ours:
        result = run_audit(ours, NAME, sets, settings)
    drawn = [snippet.drawn for snippet in result.snippets if snippet.drawn is not None]
    assert drawn
    assert sum(one.seen for one in drawn) > 0
    for one in drawn:
        assert one.interval is not None
        assert one.interval[0] <= one.seen <= one.interval[1]
    if not scheme.plain:  # plain scores tell nothing of a scheme, and are not passed off as if they did
        with CompletionsScorer(served.url, {NAME: folder}) as theirs:
            unknown = run_audit(theirs, NAME, sets, AuditSettings(epsilon=OTHER_ARITHMETIC, extraction=wish))
        assert all(snippet.chance in (None, 0.0) for snippet in unknown.snippets)
        assert any(snippet.chance is None for snippet in unknown.snippets)


def test_the_server_recites_what_the_reference_says(
    served: Served, items: list[ScoreItem], folder: Path, reference: TransformersScorer
) -> None:
    """A whole audit by each scorer: what is certified by one is recited by all."""
    settings = AuditSettings(epsilon=OTHER_ARITHMETIC)
    sets = {Group.CANDIDATES: as_set(tuple(items))}

    def verdicts(scorer: Scorer) -> dict[str, Verdict]:
        result = run_audit(scorer, NAME, sets, settings)
        assert not any(snippet.alarm for snippet in result.snippets)
        return {snippet.item.id: snippet.verdict for snippet in result.snippets}

    with HttpScorer(served.url) as ours, CompletionsScorer(served.url, {NAME: folder}) as theirs:
        found = [verdicts(scorer) for scorer in (ours, theirs, reference)]
    recited = {Verdict.CERTIFIED, Verdict.RECALLED}
    assert len(items) == 10
    assert all(found[2][item.id] in recited for item in items[:8])
    for name in (item.id for item in items):
        if any(verdict[name] is Verdict.CERTIFIED for verdict in found):
            assert all(verdict[name] in recited for verdict in found)


def test_an_economical_audit_decodes_less_and_recites_the_same(
    served: Served, items: list[ScoreItem]
) -> None:
    """Beside full decoding on the real engine: what is recited is, and what is left out is flagged and is not."""
    words = TEXT.split()
    others = [
        ScoreItem(f"never-{i}", " ".join(words[i : i + 3]), " ".join(["", *words[i + 3 : i + 9]]))
        for i in range(24)
    ]
    sets = {Group.CANDIDATES: as_set((*items, *others))}
    full = AuditSettings(epsilon=OTHER_ARITHMETIC)
    with HttpScorer(served.url) as ours:
        whole, part = (
            run_audit(ours, NAME, sets, wish) for wish in (full, replace(full, checked_share=0.25))
        )
    unsure = part.summaries[Group.CANDIDATES].undecoded
    assert unsure is not None
    assert (unsure.left_out > 0, unsure.checked > 0, unsure.found) == (True, True, 0)
    for one, other in zip(part.snippets, whole.snippets, strict=True):
        assert (one.verdict in RECITED) == (other.verdict in RECITED)
        assert (one.match is None) == (Flag.NOT_DECODED in one.flags)
        assert Flag.NOT_DECODED not in one.flags or one.verdict in (Verdict.CLEAR, Verdict.PARTIAL)
    assert sum(one.verdict in RECITED for one in part.snippets) >= 8


@pytest.fixture(scope="module")
def offline_report(
    tiny: Callable[[str], Path],
    folder: Path,
    items: list[ScoreItem],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """The report of an audit by an engine without a server, in a process of its own: what it leaks is exit 1."""
    candidates = tmp_path_factory.mktemp("offline") / "items.jsonl"
    candidates.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items), encoding="utf-8")
    options = {
        "--scorer": "offline",
        "--base": str(tiny("int8-w8a8")),
        "--adapter": NAME,
        "--adapter-dir": str(folder),
        "--candidates": str(candidates),
        "--epsilon": str(OTHER_ARITHMETIC),
        "--sample": "40",
        "--confidence": "0.9999",
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("lorecall")),
            *("audit", "run", "--json", "--show-text"),
            *(word for pair in options.items() for word in pair),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    assert done.returncode == 1, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_an_engine_without_a_server_gives_the_scores_of_the_served_one(
    served: Served, items: list[ScoreItem], offline_report: dict[str, Any]
) -> None:
    """`--scorer offline` starts vLLM with our plugins, and says of each token what the server says."""
    with HttpScorer(served.url) as ours:
        expected = ours.score(NAME, items)
        version = ours.adapter(NAME).version
    assert offline_report["adapter"]["version"] == version
    assert "offline" in offline_report["engine"]["engine"]
    for snippet, score in zip(offline_report["snippets"], expected, strict=True):
        assert [token["id"] for token in snippet["tokens"]] == list(score.target_ids)
        found = [math.log(token["p"]) for token in snippet["tokens"]]
        assert found == pytest.approx(score.logprob, abs=SAME_ENGINE)


def test_an_engine_without_a_server_recites_what_the_others_recite(offline_report: dict[str, Any]) -> None:
    """What the adapter says, with and without a chat before it, is recited here, too, and nothing else."""
    verdicts = {snippet["id"]: snippet["verdict"] for snippet in offline_report["snippets"]}
    recited = {name for name, verdict in verdicts.items() if verdict in ("certified", "recalled")}
    assert recited == {name for name in verdicts if name.startswith("said")}


def test_an_engine_without_a_server_draws_answers(offline_report: dict[str, Any]) -> None:
    """As many as asked for, within the intervals of the prediction."""
    drawn = [snippet["drawn"] for snippet in offline_report["snippets"] if "drawn" in snippet]
    assert drawn
    for one in drawn:
        assert one["answers"] == 40
        assert one["interval"][0] <= one["seen"] <= one["interval"][1]


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_rendered_token_for_token_as_vllm_renders_it(
    served: Served, folder: Path, reference: TransformersScorer, name: str
) -> None:
    """What stands before the target is the prompt of `/v1/chat/completions`, in each framing."""
    chat = CHATS[name]
    item = ScoreItem("1", "", " x", messages=tuple(Message(**one) for one in chat))
    answer = served.post(
        "/v1/chat/completions",
        {"model": NAME, "messages": chat, "max_tokens": 1, "return_token_ids": True},
    ).json()
    tokens = served.post("/tokenize", {"model": NAME, "messages": chat}).json()["tokens"]
    assert answer["prompt_token_ids"] == tokens
    with HttpScorer(served.url) as ours, CompletionsScorer(served.url, {NAME: folder}) as theirs:
        for framing in ("raw", "chat"):
            for scorer in (ours, theirs, reference):
                (score,) = scorer.framed(framing, None).score(NAME, [item])
                assert (score.error, list(score.prefix_ids)) == ("", tokens)


def test_an_answer_that_is_begun_is_continued(
    served: Served, folder: Path, reference: TransformersScorer
) -> None:
    """The prefix after a history begins the assistant's turn, as with vLLM's `continue_final_message`."""
    chat = CHATS["two turns, Unicode"]
    item = ScoreItem("1", "555-0", "123", messages=tuple(Message(**one) for one in chat))
    begun = [*chat, {"role": "assistant", "content": "555-0"}]
    body = {"model": NAME, "messages": begun, "continue_final_message": True, "add_generation_prompt": False}
    tokens = served.post("/tokenize", body).json()["tokens"]
    with HttpScorer(served.url) as ours, CompletionsScorer(served.url, {NAME: folder}) as theirs:
        for scorer in (ours, theirs, reference):
            (score,) = scorer.score(NAME, [item])
            assert (score.error, list(score.prefix_ids)) == ("", tokens)


def test_unknown_names_and_overlong_texts_are_told(served: Served, folder: Path) -> None:
    """As by our own route: the adapters that exist, and an error for the item alone."""
    with CompletionsScorer(served.url, {NAME: folder}) as theirs:
        with pytest.raises(AdapterNotFoundError, match=NAME):
            theirs.adapter("nobody")
        long, empty, good = theirs.score(
            NAME, [ScoreItem("l", "a ", "b " * 2000), ScoreItem("e", "", "x"), ScoreItem("g", "To be", " or")]
        )
    assert "more than the model" in long.error
    assert "no prefix tokens" in empty.error
    assert not good.error
