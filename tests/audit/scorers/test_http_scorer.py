"""The scorer over HTTP, against an exact engine behind a real socket."""

import json
import socket
from dataclasses import asdict, replace
from typing import Any

import httpx
import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError, ScorerError, UsageError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import EngineInfo, ItemScore, Message, ScoreItem
from lorecall.audit.scorers.completions_scorer import CompletionsScorer
from lorecall.audit.scorers.http_client import HttpClient
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.scorers.remote_engine import HttpEngine
from lorecall.audit.verdicts import Group

from tests.audit.tiny_scorer import BASE, TinyScorer
from tests.audit.tiny_server import serve

NUMBER = "5550123987"


def answering(status: int, body: object) -> HttpScorer:
    """A scorer whose server always gives one answer."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, json=body))
    return HttpScorer("http://server", transport=transport)


def test_an_audit_over_http_is_the_audit_in_memory(
    engine: TinyScorer, sets: dict[Group, CandidateSet]
) -> None:
    """Every score, decode and verdict comes through HTTP unchanged, whatever the batch."""
    settings = AuditSettings()
    with serve(engine) as url, HttpScorer(url, batch=7) as scorer:
        over_http = run_audit(scorer, "leaky", sets, settings)
    in_memory = run_audit(engine, "leaky", sets, settings)
    assert over_http.snippets == in_memory.snippets
    assert over_http.adapter == in_memory.adapter
    assert over_http.engine == in_memory.engine


def test_a_description_of_another_engine_measures_nothing(
    engine: TinyScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of adapters asks for it; the first call of an audit's scorer measures ε."""
    asked: list[str] = []
    send = HttpClient.send

    def recorded(self: HttpClient, method: str, path: str, **content: Any) -> httpx.Response:
        asked.append(path)
        return send(self, method, path, **content)

    monkeypatch.setattr(HttpClient, "send", recorded)
    with serve(engine) as url:
        assert HttpEngine(url).info() == engine.info()
        assert asked == ["/v1/engine"]
        with HttpScorer(url) as scorer:
            scorer.info()
    assert asked[1:] == ["/v1/engine?measure=true"]


def test_decoding_sends_no_penalties_and_keeps_the_order(engine: TinyScorer) -> None:
    """A model's own generation settings must not bend greedy decoding (pitfall 4); answers come in order."""
    sent: list[dict[str, object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        sent.append(body)
        decoded = engine.decode(body["model"], [(ids, body["max_tokens"]) for ids in body["prompt"]])
        choices = [{"index": i, "text": d.text, "token_ids": list(d.ids)} for i, d in enumerate(decoded)]
        return httpx.Response(200, json={"choices": choices})

    prompts = [(tuple(b"the quick"), 9), (tuple(b"when a"), 2), (tuple(b"number"), 5)]
    with HttpScorer("http://server", batch=2, transport=httpx.MockTransport(handle)) as scorer:
        decoded = scorer.decode(BASE, prompts)
    for one, (ids, tokens) in zip(decoded, prompts, strict=True):
        assert one.ids[:tokens] == engine.decode(BASE, [(ids, tokens)])[0].ids
    neutral = {
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    assert all(body[name] == value for body in sent for name, value in neutral.items())


@pytest.mark.parametrize(("told", "priority"), [({"background_priority": 10}, 10), ({}, None)])
def test_decoding_yields_where_the_engine_lets_it(told: dict[str, int], priority: int | None) -> None:
    """The priority that the server names goes with every decode, in any framing; without one, none does."""
    sent: list[dict[str, object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/engine":
            return httpx.Response(200, json={"engine": "e", "base": BASE, **told})
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"index": 0, "text": "", "token_ids": []}]})

    with HttpScorer("http://server", transport=httpx.MockTransport(handle)) as scorer:
        scorer.info()
        for one in (scorer, scorer.framed("chat", None)):
            one.decode(BASE, [((1, 2), 3)])
    assert [body.get("priority") for body in sent] == [priority] * 2


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("field", ["engine", "base_digest", "scheme"])
def test_another_base_meanwhile_ends_the_audit(
    engine: TinyScorer,
    sets: dict[Group, CandidateSet],
    field: str,
    *,
    beside: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Said beside the scores, or asked with each batch of a server that does not: exit code 3, naming both."""
    moved = EngineInfo(**{**asdict(engine.engine), field: "another"})

    def move() -> None:
        if len(engine.scored) > 20:
            engine.engine = moved

    engine.before_score = move
    if not beside:
        ask = HttpClient.ask

        def silent(self: HttpClient, method: str, path: str, body: Any = None) -> dict[str, Any]:
            return {name: value for name, value in ask(self, method, path, body).items() if name != "engine"}

        monkeypatch.setattr(HttpClient, "ask", silent)
    with (
        serve(engine) as url,
        HttpScorer(url, batch=4) as scorer,
        pytest.raises(ScorerError, match=f"began on {field} .* and now meets 'another'") as caught,
    ):
        run_audit(scorer, "leaky", sets, AuditSettings(chunk=4))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("field", ["device", "dtype", "kv_cache_dtype"])
def test_other_arithmetic_is_another_engine(field: str) -> None:
    """A server started again in another dtype has another arithmetic; one that does not say is let be."""
    silent = EngineInfo("vllm", "base")
    one, other = replace(silent, **{field: "one"}), replace(silent, **{field: "other"})  # type: ignore[arg-type]
    assert one.moved(other) == f"the audit began on {field} 'one' and now meets 'other'"
    assert not one.moved(one)
    assert not one.moved(silent)
    assert not silent.moved(one)


@pytest.mark.parametrize("moved", ["base", "version"])
def test_another_base_behind_any_vllm_server_ends_the_audit(moved: str) -> None:
    """Its models and its version are asked again with each batch, before it is scored."""
    says = {"base": "tiny", "version": "0.1"}

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": says["version"]})
        assert request.url.path == "/v1/models", "nothing is scored on another base"
        return httpx.Response(200, json={"data": [{"id": says["base"]}, {"id": "a", "parent": says["base"]}]})

    with CompletionsScorer("http://server", transport=httpx.MockTransport(handle)) as scorer:
        assert scorer.info().base == "tiny"
        says[moved] = "another"
        with pytest.raises(ScorerError, match=r"and now meets .*another"):
            scorer.score("a", [ScoreItem("1", "p", "t")])


@pytest.mark.parametrize("framed", [True, False])
def test_a_chat_that_the_template_refuses_is_an_error_of_its_own(*, framed: bool) -> None:
    """One item's, without the template's words; where `/tokenize` refuses plain text, too, the audit ends."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/tokenize":
            return httpx.Response(200, json={"data": [{"id": "tiny"}], "version": "1"})
        if "messages" in json.loads(request.content) or not framed:
            return httpx.Response(400, json={"error": {"message": "private words"}})
        return httpx.Response(200, json={"tokens": [1]})

    item = ScoreItem("r", "", "t", messages=(Message("user", "p"),))
    with CompletionsScorer("http://server", transport=httpx.MockTransport(handle)) as scorer:
        if framed:
            (found,) = scorer.score("tiny", [item])
            assert found.error == "the text cannot be framed: the server refuses the messages"
        else:
            with pytest.raises(ScorerError, match="HTTP 400"):
                scorer.score("tiny", [item])


def test_any_vllm_server_is_asked_in_the_adapters_own_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Adapter and base alike; an adapter whose chats are rendered as the base's has none of its own."""
    tokenized: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/tokenize":
            models = [{"id": "tiny"}, *({"id": name, "parent": "tiny"} for name in ("own", "plain"))]
            return httpx.Response(200, json={"data": models, "version": "1"})
        body = json.loads(request.content)
        if "messages" not in body:
            return httpx.Response(200, json={"tokens": [9], "token_strs": ["t"]})
        tokenized.append(body["model"])
        return httpx.Response(200, json={"tokens": [1, 2] if body["model"] == "own" else [1, 3]})

    asked: list[tuple[int, ...]] = []

    def split(_self: CompletionsScorer, _model: str, work: Any) -> list[ItemScore]:
        asked.append(work[0][1].prefix_ids)
        return [ItemScore(name) for name, _ in work]

    monkeypatch.setattr(CompletionsScorer, "_score_splits", split)
    monkeypatch.setattr(CompletionsScorer, "_text", lambda _self, _ids: "text")
    item = ScoreItem("1", "p", "t")
    with CompletionsScorer("http://server", transport=httpx.MockTransport(handle)) as plain:
        assert not plain.adapter("plain").chat_template
        assert len(plain.adapter("own").chat_template) == 64
        scorer = plain.framed("chat", None)
        for model, template_of in (("own", ""), ("tiny", "own"), ("tiny", ""), ("plain", "")):
            scorer.templated(template_of).score(model, [item])
    assert asked == [(1, 2), (1, 2), (1, 3), (1, 3)]


def test_another_version_meanwhile_ends_the_audit(
    engine: TinyScorer, sets: dict[Group, CandidateSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found with the next batch, not after the last one."""
    with serve(engine) as url, HttpScorer(url, batch=4) as scorer:
        scorer.score("leaky", sets[Group.CANDIDATES].items[:2])
        real = engine.adapter
        monkeypatch.setattr(engine, "adapter", lambda name: replace(real(name), version="f" * 64))
        with pytest.raises(ScorerError, match="'leaky' was given a new version during the audit"):
            scorer.score("leaky", sets[Group.CANDIDATES].items[2:4])


def test_unknown_adapter_lists_those_that_exist(engine: TinyScorer) -> None:
    """A wrong name names the right ones."""
    with serve(engine) as url, HttpScorer(url) as scorer, pytest.raises(AdapterNotFoundError) as caught:
        scorer.adapter("nobody/here")
    assert "leaky, other" in caught.value.hint


def test_no_server_is_an_error_with_a_hint() -> None:
    """A port on which nothing listens says how to start a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with HttpScorer(url) as scorer, pytest.raises(ScorerError, match="no server answers") as caught:
        scorer.info()
    assert "lorecall serve" in caught.value.hint
    assert caught.value.exit_code == 3


def test_the_api_key_comes_from_the_environment(engine: TinyScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of LORECALL_API_KEY is sent, and a server that refuses it is a usage error."""
    with serve(engine, api_key="k1") as url:
        monkeypatch.setenv("LORECALL_API_KEY", "k1")
        with HttpScorer(url) as scorer:
            assert scorer.info().base == BASE
        monkeypatch.setenv("LORECALL_API_KEY", "other")
        with HttpScorer(url) as scorer, pytest.raises(UsageError, match="API key"):
            scorer.info()


def test_an_error_never_quotes_a_candidate() -> None:
    """What the server says of a scoring request may quote the text, so it is not repeated."""
    message = {"message": f"bad input {NUMBER}", "type": "BadRequestError", "param": "items", "code": "bad"}
    with answering(400, {"error": message}) as scorer, pytest.raises(ScorerError) as caught:
        scorer.score(BASE, [ScoreItem("1", "key", NUMBER)])
    assert NUMBER not in str(caught.value)
    assert "BadRequestError" in str(caught.value)


@pytest.mark.parametrize(
    "items",
    [
        None,
        [{"id": "2", "error": "another item"}],
        [],
        [
            {
                "id": "1",
                "target_ids": [1, 2],
                "p": [0.5],
                "logprob": [-0.7],
                "rank": [1],
                "top1_ids": [1],
                "top1_p": [0.5],
            }
        ],
        [
            {
                "id": "1",
                "target_ids": [1],
                "p": ["high"],
                "logprob": [-0.7],
                "rank": [1],
                "top1_ids": [1],
                "top1_p": [0.5],
            }
        ],
    ],
)
def test_a_broken_contract_is_an_error(items: object) -> None:
    """Answers with missing, foreign, uneven or mistyped items are refused, not guessed at."""
    with answering(200, {"items": items}) as scorer, pytest.raises(ScorerError, match="contract"):
        scorer.score(BASE, [ScoreItem("1", "key", NUMBER)])


def test_a_server_of_another_kind_is_named_so() -> None:
    """A server without /v1/engine is no lorecall server."""
    with answering(404, {"error": {}}) as scorer, pytest.raises(ScorerError, match="has no /v1/engine"):
        scorer.info()


@pytest.mark.parametrize("options", [{"server": "localhost:8000"}, {"batch": 0}])
def test_options_that_cannot_be_used_are_refused(options: dict[str, object]) -> None:
    """A URL without a scheme and an empty batch are usage errors."""
    arguments: dict[str, object] = {"server": "http://server", **options}
    with pytest.raises(UsageError):
        HttpScorer(**arguments)  # type: ignore[arg-type]  # wrong values are the point


def test_a_chat_framing_reaches_the_server(engine: TinyScorer) -> None:
    """Prefixes are framed by the server, so their token ids show the template."""
    item = ScoreItem("1", "hello", "there")
    with serve(engine) as url, HttpScorer(url) as scorer:
        score = scorer.framed("chat+system", "be kind ").score(BASE, [item])[0]
        assert bytes(scorer.score(BASE, [item])[0].prefix_ids) == b"hello"
    assert bytes(score.prefix_ids) == b"be kind <user>hello</user>"


def test_an_adapters_template_reaches_the_server_by_its_name() -> None:
    """For the base too, which is asked for the same text; without one, nothing is said."""
    sent: list[dict[str, object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"items": []})

    with HttpScorer("http://server", transport=httpx.MockTransport(handle)) as scorer:
        for one in (scorer, scorer.templated("acme"), scorer.templated("acme").framed("chat", None)):
            with pytest.raises(ScorerError):
                one.score(BASE, [ScoreItem("1", "a", "b")])
    assert [body.get("chat_template_of") for body in sent] == [None, "acme", "acme"]


def test_token_texts_are_asked_once_for_each_token(engine: TinyScorer) -> None:
    """Repeated tokens cost one request."""
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/engine":
            return httpx.Response(200, json={"engine": "e", "base": BASE})
        tokens = json.loads(request.content)["tokens"]
        asked.extend(tokens)
        return httpx.Response(200, json={"prompt": "".join(engine.token_texts(tokens))})

    with HttpScorer("http://server", transport=httpx.MockTransport(handle)) as scorer:
        assert scorer.token_texts(list(b"abba")) == ["a", "b", "b", "a"]
    assert sorted(asked) == list(b"ab")
