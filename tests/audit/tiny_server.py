"""The exact engine in memory behind real HTTP, with the routes of a lorecall server."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from lorecall.adapters.core.errors import AdapterNotFoundError
from lorecall.audit.scorer import Message, Sampling, ScoreItem

from tests.audit.tiny_explorer import TinyExplorer
from tests.audit.tiny_scorer import END, TinyScorer

Answer = tuple[int, object]
LISTED = 50


def refusal(status: int, message: str, code: str) -> Answer:
    return status, {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    }


def get(scorer: TinyScorer, path: str) -> Answer:
    """Answer a GET."""
    if path.partition("?")[0] == "/v1/engine":
        return 200, asdict(scorer.info())
    if path == "/v1/models":
        return 200, {"data": [{"id": scorer.info().base, "max_model_len": scorer.max_bytes}]}
    if path.partition("?")[0] == "/v1/adapters":
        asked = dict(parse_qsl(path.partition("?")[2]))
        names = [name for name in sorted(scorer.adapters) if asked.get("contains", "") in name]
        rest = [name for name in names if name > asked.get("after", "")]
        return 200, {
            "adapters": [live(scorer, name) for name in rest[:LISTED]],
            "has_more": len(rest) > LISTED,
        }
    if path.startswith("/v1/adapters/"):
        try:
            return 200, live(scorer, path.rsplit("/", 1)[1])
        except AdapterNotFoundError as error:
            return refusal(404, str(error), "adapter_not_found")
    return refusal(404, f"no route {path}", "not_found")


def live(scorer: TinyScorer, name: str) -> dict[str, Any]:
    """An adapter as the control plane shows it."""
    version = scorer.adapter(name)
    return {**asdict(version), "state": "live", "live_version": version.version}


def scored(item: dict[str, Any]) -> ScoreItem:
    """Read an item of `POST /v1/score`."""
    messages = tuple(Message(**message) for message in item.get("messages", []))
    return ScoreItem(item["id"], item["prefix"], item["target"], messages=messages)


def tokenized(scorer: TinyScorer, body: dict[str, Any]) -> bytes:
    """Return the tokens of a prompt, or of messages."""
    if "messages" not in body:
        return bytes(body["prompt"].encode())
    said = tuple(Message(**message) for message in body["messages"])
    return scorer.framed("chat", None).frame(ScoreItem("", "", "", messages=said))


def post(scorer: TinyScorer, path: str, body: dict[str, Any]) -> Answer:  # noqa: PLR0911  one for each route
    """Answer a POST."""
    if path == "/v1/score":
        engine = scorer.framed(body["framing"], body["system"]).sampled(Sampling(**body.get("sampling", {})))
        scores = engine.score(body["model"], [scored(item) for item in body["items"]])
        version = "" if body["model"] == scorer.info().base else scorer.adapter(body["model"]).version
        told = {"model": body["model"], "version": version, "engine": asdict(scorer.info())}
        return 200, {**told, "items": [asdict(score) for score in scores]}
    if path == "/tokenize":
        return 200, {"tokens": list(tokenized(scorer, body))}
    if path == "/v1/completions" and any(
        body.get(key) is not None for key in ("logprobs", "prompt_logprobs")
    ):
        return 200, {"choices": explored(TinyExplorer(scorer), body)}
    if path == "/v1/completions":
        if body["temperature"]:
            ((ids, tokens),) = [(ids, body["max_tokens"]) for ids in body["prompt"]]
            scheme = Sampling(body["temperature"], body["top_p"], body["top_k"])
            drawn = scorer.draw(body["model"], (ids, tokens), body["n"], scheme, body["seed"])
            choices = [{"index": i, "text": d.text, "token_ids": list(d.ids)} for i, d in enumerate(drawn)]
            return 200, {"choices": choices}
        decoded = scorer.decode(body["model"], [(ids, body["max_tokens"]) for ids in body["prompt"]])
        choices = [{"index": i, "text": d.text, "token_ids": list(d.ids)} for i, d in enumerate(decoded)]
        return 200, {"choices": choices[::-1]}
    if path == "/v1/adapters":  # every folder knows what the first adapter knows
        scorer.adapters[body["name"]] = next(iter(scorer.adapters.values()))
        return 201, live(scorer, body["name"])
    if path == "/detokenize":
        return 200, {"prompt": TinyExplorer(scorer).texts([body["tokens"]])[0]}
    return refusal(404, f"no route {path}", "not_found")


def delete(scorer: TinyScorer, path: str) -> Answer:
    """Answer a DELETE of an adapter."""
    del scorer.adapters[path.rsplit("/", 1)[1]]
    return 200, {}


def explored(explorer: TinyExplorer, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer completions with log-probabilities in vLLM's form: generated ones, or those of the prompt."""
    if "prompt_logprobs" in body:
        whole = explorer.rows(body["model"], [(ids, 1) for ids in body["prompt"]], body["prompt_logprobs"])
        return [
            {
                "index": i,
                "prompt_logprobs": [
                    None,
                    *({str(t): {"logprob": p} for t, p in row.items()} for row in rows),
                ],
            }
            for i, rows in enumerate(whole)
        ]
    rolled = explorer.roll(body["model"], body["prompt"], body["max_tokens"], body["logprobs"])
    return [
        {
            "index": i,
            "token_ids": [*roll.ids, *([END] if roll.end else [])],
            "finish_reason": "stop" if roll.end else "length",
            "logprobs": {
                "tokens": [],
                "top_logprobs": [
                    {f"token_id:{token}": p for token, p in row.items()}
                    for row in (*roll.rows, *([roll.end] if roll.end else []))
                ],
            },
        }
        for i, roll in enumerate(rolled)
    ]


@contextmanager
def serve(scorer: TinyScorer, *, api_key: str = "") -> Iterator[str]:
    """Serve the engine on a free port and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self, method: str) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else {}
            if api_key and self.headers.get("Authorization") != f"Bearer {api_key}":
                status, payload = refusal(401, "Unauthorized", "unauthorized")
            elif method == "POST":
                status, payload = post(scorer, self.path, body)
            else:
                status, payload = (get if method == "GET" else delete)(scorer, self.path)
            data = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._respond("GET")

        def do_POST(self) -> None:
            self._respond("POST")

        def do_DELETE(self) -> None:
            self._respond("DELETE")

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
